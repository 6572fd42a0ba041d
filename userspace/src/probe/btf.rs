//! Where the running kernel keeps its fields: a reader for `/sys/kernel/btf/vmlinux` that knows structs and members.
//!
//! One pass over the types, no copies: some milliseconds for a whole kernel. Format: Documentation/bpf/btf.rst.

use aya_obj::btf::{BtfType, Func, FuncLinkage};
use bindwatch_probe::abi::config::{ABSENT, BitField};

/// Why a BTF blob could not be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// It does not begin as BTF does.
    #[error("it is not BTF (the magic number is wrong)")]
    Magic,
    /// It ends early.
    #[error("it is cut short at byte {0}")]
    Short(usize),
    /// It holds a type of a kind that bindwatch does not know.
    #[error("it holds a type of unknown kind {0}")]
    Kind(u32),
}

/// A parsed BTF blob.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of each type in `types`; type ids start at 1.
    index: Vec<u32>,
    /// Ids of the structs that were asked for, in the order in which they were; 0: the kernel has none of this name.
    structs: Vec<(&'static str, u32)>,
    /// The functions that were asked for.
    functions: Vec<(&'static str, Option<Function>)>,
}

/// Names that are looked for among all of a kernel's: most of those differ from each of them in the first four bytes.
struct Names {
    /// Each once, with the places of the names that begin so.
    begins: Vec<(u32, Vec<usize>)>,
}

impl Names {
    fn of(names: &[&str]) -> Self {
        let mut begins: Vec<(u32, Vec<usize>)> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            // As it is in the strings: a NUL ends it.
            let mut begin = name.bytes().chain([0, 0, 0, 0]);
            let begin = u32::from_ne_bytes([(); 4].map(|()| begin.next().unwrap_or(0)));
            match begins.iter_mut().find(|(known, _)| *known == begin) {
                Some((_, places)) => places.push(at),
                None => begins.push((begin, vec![at])),
            }
        }
        Self { begins }
    }

    /// Places of the names that begin as the string at `from` does.
    fn like(&self, strings: &[u8], from: u32) -> &[usize] {
        let Ok(begin) = word(strings, from as usize) else { return &[] };
        self.begins.iter().find(|(known, _)| *known == begin).map_or(&[], |(_, places)| places)
    }
}

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_TYPE_TAG: u32 = 18;

/// Types deep that a member path is followed; far above what the kernel has.
const DEPTH_MAX: u32 = 32;

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its id, by which the kernel is told what a program attaches to.
    pub id: u32,
    /// How many arguments it takes.
    pub arguments: u32,
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Bits from the start of the struct.
    bits: u32,
    /// Width in bits for a bit field, else 0.
    width: u32,
    /// Its type.
    type_id: u32,
}

struct Header {
    name: u32,
    kind: u32,
    vlen: u32,
    kind_flag: bool,
    /// Size, or another type's id.
    value: u32,
}

impl<'a> Btf<'a> {
    /// Indexes `blob` and finds the structs and functions of these names (of three letters or more), in one
    /// pass over the types.
    ///
    /// # Errors
    /// When it is not BTF, ends early, or holds a type kind newer than those known here.
    pub fn parse(
        blob: &'a [u8],
        structs: &[&'static str],
        functions: &[&'static str],
    ) -> Result<Self, BtfError> {
        if half(blob, 0)? != MAGIC {
            return Err(BtfError::Magic);
        }
        let body = word(blob, 4)? as usize;
        let section = |offset: usize| -> Result<&'a [u8], BtfError> {
            let (start, len) = (body + word(blob, offset)? as usize, word(blob, offset + 4)? as usize);
            blob.get(start..start.saturating_add(len)).ok_or(BtfError::Short(blob.len()))
        };
        let types = section(8)?;
        let mut btf = Self {
            types,
            strings: section(16)?,
            // Some more than there are.
            index: Vec::with_capacity(types.len() / 12),
            structs: structs.iter().map(|name| (*name, 0)).collect(),
            functions: functions.iter().map(|name| (*name, None)).collect(),
        };
        btf.index.push(0);
        let (struct_names, function_names) = (Names::of(structs), Names::of(functions));
        // The prototype of a function can come behind it.
        let mut prototypes = Vec::new();
        let mut at = 0;
        while at < btf.types.len() {
            let header = btf.header(at)?;
            let id = u32::try_from(btf.index.len()).unwrap_or(0);
            match header.kind {
                KIND_STRUCT => {
                    for place in struct_names.like(btf.strings, header.name) {
                        let is_it = |name| is_named(btf.strings, header.name, name);
                        if let Some((name, found @ 0)) = btf.structs.get_mut(*place)
                            && is_it(name)
                        {
                            *found = id;
                        }
                    }
                }
                KIND_FUNC => {
                    for place in function_names.like(btf.strings, header.name) {
                        let is_it = |name| is_named(btf.strings, header.name, name);
                        if let Some((name, found @ None)) = btf.functions.get_mut(*place)
                            && is_it(name)
                        {
                            *found = Some(Function { id, arguments: 0 });
                            prototypes.push((*place, header.value));
                        }
                    }
                }
                _ => {}
            }
            btf.index.push(u32::try_from(at).map_err(|_| BtfError::Short(at))?);
            at += 12 + header.tail()?;
        }
        for (place, prototype) in prototypes {
            let prototype = btf.index.get(prototype as usize).map(|at| btf.header(*at as usize));
            if let Some((_, Some(function))) = btf.functions.get_mut(place) {
                function.arguments = prototype.and_then(Result::ok).map_or(0, |prototype| prototype.vlen);
            }
        }
        Ok(btf)
    }

    /// Byte offset of `path` (members joined by dots) in the struct `of`, or [`ABSENT`].
    #[must_use]
    pub fn offset(&self, of: &str, path: &str) -> u32 {
        self.place(of, path).map_or(ABSENT, |place| place.bits / 8)
    }

    /// The bit field `path` in the struct `of`, or [`BitField::NONE`].
    #[must_use]
    pub fn bit_field(&self, of: &str, path: &str) -> BitField {
        let Some(place) = self.place(of, path) else { return BitField::NONE };
        let width = if place.width == 0 { 8 } else { place.width.min(8) };
        BitField { byte: place.bits / 8, shift: place.bits % 8, mask: (1 << width) - 1 }
    }

    /// A function that was asked for; None: the kernel does not have it.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Function> {
        self.functions.iter().find(|(known, _)| *known == name)?.1
    }

    fn place(&self, of: &str, path: &str) -> Option<Place> {
        let mut type_id = self.structs.iter().find(|(name, id)| *name == of && *id != 0)?.1;
        let mut bits = 0;
        let mut found = None;
        for member in path.split('.') {
            let place = self.member(type_id, member, DEPTH_MAX)?;
            bits += place.bits;
            type_id = place.type_id;
            found = Some(Place { bits, ..place });
        }
        found
    }

    /// Looks for a member in a struct or union, through anonymous ones.
    fn member(&self, type_id: u32, name: &str, depth: u32) -> Option<Place> {
        let depth = depth.checked_sub(1)?;
        let at = *self.index.get(type_id as usize)? as usize;
        let header = self.header(at).ok()?;
        match header.kind {
            KIND_STRUCT | KIND_UNION => {}
            KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                return self.member(header.value, name, depth);
            }
            // The first element stands for all.
            KIND_ARRAY => return self.member(word(self.types, at + 12).ok()?, name, depth),
            _ => return None,
        }
        for number in 0..header.vlen as usize {
            let member = at + 12 + number * 12;
            let (member_name, member_type, offset) = (
                word(self.types, member).ok()?,
                word(self.types, member + 4).ok()?,
                word(self.types, member + 8).ok()?,
            );
            let (bits, width) =
                if header.kind_flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            if is_named(self.strings, member_name, name) {
                return Some(Place { bits, width, type_id: member_type });
            }
            if member_name == 0
                && let Some(inner) = self.member(member_type, name, depth)
            {
                return Some(Place { bits: bits + inner.bits, ..inner });
            }
        }
        None
    }

    fn header(&self, at: usize) -> Result<Header, BtfError> {
        let info = word(self.types, at + 4)?;
        Ok(Header {
            name: word(self.types, at)?,
            kind: (info >> 24) & 0x1f,
            vlen: info & 0xffff,
            kind_flag: info >> 31 != 0,
            value: word(self.types, at + 8)?,
        })
    }
}

fn is_named(strings: &[u8], name: u32, wanted: &str) -> bool {
    let from = name as usize;
    name != 0
        && strings.get(from..from + wanted.len()) == Some(wanted.as_bytes())
        && strings.get(from + wanted.len()) == Some(&0)
}

impl Header {
    /// Bytes that follow the header.
    const fn tail(&self) -> Result<usize, BtfError> {
        let vlen = self.vlen as usize;
        Ok(match self.kind {
            // VAR (14) and DECL_TAG (17) carry a number too.
            KIND_INT | 14 | 17 => 4,
            KIND_ARRAY => 12,
            // DATASEC (15) and ENUM64 (19) have entries of the same size.
            KIND_STRUCT | KIND_UNION | 15 | 19 => vlen * 12,
            // ENUM, FUNC_PROTO
            6 | 13 => vlen * 8,
            // PTR, FWD, typedefs and qualifiers, FUNC, FLOAT, TYPE_TAG
            2 | 7..=12 | 16 | KIND_TYPE_TAG => 0,
            other => return Err(BtfError::Kind(other)),
        })
    }
}

/// Types of a kernel in which each of these functions has its id, and all else is filling.
///
/// The loader wants parsed types to look up one id. The kernel's own take 20 MiB and several milliseconds to parse; these take
/// next to nothing.
#[must_use]
pub fn with_functions(functions: &[(&str, u32)]) -> aya::Btf {
    let mut functions = functions.to_vec();
    functions.sort_unstable_by_key(|(_, id)| *id);
    let mut types = aya::Btf::new();
    // 0 is void, which is there.
    let mut next = 1;
    for (name, id) in functions {
        (next..id).for_each(|_| {
            types.add_type(BtfType::Unknown);
        });
        let name = types.add_string(name);
        types.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static)));
        next = id.max(next) + 1;
    }
    types
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or(BtfError::Short(at))
}

fn half(bytes: &[u8], at: usize) -> Result<u16, BtfError> {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or(BtfError::Short(at))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use aya_obj::btf::BtfKind;

    use super::*;

    /// Bytes of `struct btf_header`.
    const HEADER_LEN: u32 = 24;
    const KIND_PTR: u32 = 2;

    /// A blob in which each of these functions has its id, and all else is filling.
    fn blob_with_functions(functions: &[(&str, u32)]) -> Vec<u8> {
        let last = functions.iter().map(|(_, id)| *id).max().unwrap_or(0) as usize;
        let mut kinds = vec![(0, KIND_PTR); last];
        let mut strings = vec![0];
        for (name, id) in functions {
            if let Some(kind) = (*id as usize).checked_sub(1).and_then(|at| kinds.get_mut(at)) {
                *kind = (u32::try_from(strings.len()).unwrap_or(0), KIND_FUNC);
            }
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let types = kinds.into_iter().flat_map(|(name, kind): (u32, u32)| [name, kind << 24, 0]);
        let types: Vec<u8> = types.flat_map(u32::to_ne_bytes).collect();
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let header = [HEADER_LEN, 0, len(&types), len(&types), len(&strings)];
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        // Version 1, no flags.
        blob.extend([1, 0]);
        blob.extend(header.into_iter().flat_map(u32::to_ne_bytes));
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert_eq!(Btf::parse(&[0; 64], &[], &[]).err(), Some(BtfError::Magic));
        assert_eq!(Btf::parse(&[0x9f], &[], &[]).err(), Some(BtfError::Short(0)));
    }

    #[test]
    fn makes_a_blob_with_functions_at_their_ids() {
        let wanted = [("inet_bind", 7), ("bpf_iter_task_file", 1000), ("inet6_bind", 1)];
        let blob = blob_with_functions(&wanted);
        let names = wanted.map(|(name, _)| name);
        let btf = Btf::parse(&blob, &[], &names).unwrap();
        let found = names.map(|name| btf.function(name).unwrap().id);
        assert_eq!(found, wanted.map(|(_, id)| id));
        assert_eq!(Btf::parse(&blob, &[], &["inet"]).unwrap().function("inet"), None);
    }

    #[test]
    fn makes_types_with_functions_at_their_ids() {
        let wanted = [("inet_bind", 7), ("bpf_iter_task_file", 1000), ("inet6_bind", 1)];
        let types = with_functions(&wanted);
        for (name, id) in wanted {
            assert_eq!(types.id_by_type_name_kind(name, BtfKind::Func).unwrap(), id);
        }
        assert!(types.id_by_type_name_kind("inet", BtfKind::Func).is_err());
    }

    #[test]
    fn survives_every_cut_of_the_running_kernel() {
        let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            // Declared minimum: a kernel with BTF. One without it cannot run the probe either.
            return;
        };
        for cut in (0..blob.len()).step_by(blob.len() / 200) {
            assert!(Btf::parse(&blob[..cut], &["sock_common"], &["inet_bind"]).is_err(), "cut at {cut}");
        }
    }
}
