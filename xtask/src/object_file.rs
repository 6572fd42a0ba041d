//! The probe's object file without what only a debugger reads.

use anyhow::Context as _;
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Removes the DWARF sections. `.BTF` and `.BTF.ext` stay, the kernel and the verifier's messages need them; their
/// relocations go, which only a linker that joins several objects would read.
pub(crate) fn without_dwarf(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output is not an ELF object")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        if [".debug_", ".rel.debug_", ".rel.BTF"].iter().any(|beginning| name.starts_with(beginning)) {
            section.delete = true;
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
