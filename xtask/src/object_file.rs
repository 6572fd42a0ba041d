//! The probe's object file without what only a debugger reads.

use anyhow::Context as _;
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Removes the DWARF sections and which instruction is of which line: four tenths of the object, that whoever loads it would
/// copy for each function and the kernel would check and keep. What else `.BTF` and `.BTF.ext` say stays, the kernel needs it;
/// their relocations go, which only a linker that joins several objects would read.
pub(crate) fn without_dwarf(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output is not an ELF object")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        if [".debug_", ".rel.debug_", ".rel.BTF"].iter().any(|beginning| name.starts_with(beginning)) {
            section.delete = true;
        }
        if let (".BTF.ext", SectionData::Data(data)) = (name.as_str(), &mut section.data) {
            let shorter = without_lines(data).context(".BTF.ext is not as expected")?;
            *data = shorter.into();
        }
    }
    // LLVM keeps the names of sections and of symbols in one table, the writer in two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("the object cannot be written without its debug sections")?;
    Ok(stripped)
}

/// `.BTF.ext` without its lines. It begins with a header (`struct btf_ext_header`, include/uapi/linux/btf.h and
/// tools/lib/bpf/libbpf_internal.h of the kernel) that says where, from its end on, there is what about functions, about lines
/// and about relocations; here the last are none.
fn without_lines(ext: &[u8]) -> Option<Vec<u8>> {
    /// Where the header has its own length, then offset and length of functions, lines, relocations; bytes.
    const WORDS: std::ops::Range<usize> = 4..32;
    let words: Vec<u32> =
        ext.get(WORDS)?.as_chunks().0.iter().map(|word: &[u8; 4]| u32::from_le_bytes(*word)).collect();
    let &[header, functions_at @ 0, functions, lines_at, lines, _, 0] = words.as_slice() else { return None };
    let is_whole = usize::try_from(header).ok()? == WORDS.end
        && lines_at == functions
        && ext.len() == WORDS.end + usize::try_from(lines_at + lines).ok()?;
    let mut shorter = ext.get(..WORDS.end + usize::try_from(functions).ok()?)?.to_vec();
    for (word, value) in [functions_at, functions, functions, 0, functions, 0].into_iter().enumerate() {
        let at = 8 + word * 4;
        shorter.get_mut(at..at + 4)?.copy_from_slice(&value.to_le_bytes());
    }
    is_whole.then_some(shorter)
}
