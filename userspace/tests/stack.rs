//! Every program of the probe fits on the stack as the older kernels count it: each function rounded up to 32 bytes, and 512 for a
//! function and what it calls (`check_max_stack_depth`, kernel/bpf/verifier.c). The newest round to 16.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

/// `MAX_BPF_STACK`.
const STACK: usize = 512;
const ROUNDED_TO: usize = 32;
/// `MAX_CALL_FRAMES`.
const FRAMES: usize = 8;

/// `BPF_JMP | BPF_CALL`, of a function of the program's own where the source is `BPF_PSEUDO_CALL`.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// `BPF_LD | BPF_IMM | BPF_DW`, of the address of a function where the source is `BPF_PSEUDO_FUNC`.
const ADDRESS: u8 = 0x18;
const PSEUDO_FUNC: u8 = 4;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// The register that holds the frame.
const FRAME: u8 = 10;

/// What begins a function, and what it needs of the stack and calls.
#[derive(Debug, Default)]
struct Function {
    stack: usize,
    calls: BTreeSet<usize>,
}

/// Where an instruction calls to, or what it takes the address of.
fn callee(at: usize, instruction: bpf_insn) -> Option<usize> {
    let is_call = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
    let is_address = instruction.code == ADDRESS && instruction.src_reg() == PSEUDO_FUNC;
    (is_call || is_address).then(|| at.checked_add_signed(instruction.imm as isize + 1).unwrap())
}

/// The lowest byte of the frame that an instruction touches, or whose address it makes.
fn depth(before: Option<bpf_insn>, instruction: bpf_insn) -> i32 {
    const LOAD: u8 = 1;
    const STORE: [u8; 2] = [2, 3];
    let class = instruction.code & 7;
    if class == LOAD && instruction.src_reg() == FRAME
        || STORE.contains(&class) && instruction.dst_reg() == FRAME
    {
        return -i32::from(instruction.off);
    }
    let copied = before.filter(|before| before.code == MOVE && before.src_reg() == FRAME);
    match copied {
        Some(copied) if instruction.code == ADD && instruction.dst_reg() == copied.dst_reg() => {
            -instruction.imm
        }
        _ => 0,
    }
}

fn functions(instructions: &[bpf_insn]) -> BTreeMap<usize, Function> {
    let callees = instructions.iter().enumerate().filter_map(|(at, instruction)| callee(at, *instruction));
    let mut functions: BTreeMap<usize, Function> =
        std::iter::once(0).chain(callees).map(|start| (start, Function::default())).collect();
    let mut before = None;
    for (at, instruction) in instructions.iter().copied().enumerate() {
        let (_, function) = functions.range_mut(..=at).next_back().unwrap();
        function.stack = function.stack.max(usize::try_from(depth(before, instruction)).unwrap_or(0));
        function.calls.extend(callee(at, instruction));
        before = Some(instruction);
    }
    functions
}

/// What a function and the deepest chain of what it calls need.
fn needs(functions: &BTreeMap<usize, Function>, start: usize, frames: usize) -> usize {
    assert!(frames < FRAMES, "more than {FRAMES} functions call each other");
    let function = functions.get(&start).unwrap();
    let below = function.calls.iter().map(|callee| needs(functions, *callee, frames + 1)).max();
    function.stack.max(1).next_multiple_of(ROUNDED_TO) + below.unwrap_or(0)
}

#[test]
fn every_program_fits_on_the_stack_of_the_oldest_kernels() {
    let mut object = Object::parse(include_bytes!("../probe/bindwatch.bpf.o")).unwrap();
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text).unwrap();
    let mut seen = 0;
    let mut deepest = 0;
    for (name, program) in &object.programs {
        let function = object.functions.get(&program.function_key()).unwrap();
        let needed = needs(&functions(&function.instructions), 0, 0);
        assert!(needed <= STACK, "{name} needs {needed} bytes of stack, and there are {STACK}");
        deepest = deepest.max(needed);
        seen += 1;
    }
    // Or the instructions were not understood.
    assert!(seen > 50 && deepest > STACK / 2, "{seen} programs, of which the deepest needs {deepest}");
}
