//! Runs a filter as the kernel does, for tests.

use libc::sock_filter;

use super::filter::{
    AND, ARCHITECTURE, ARGUMENTS, END, GO, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, INSTRUCTION_HIGH,
    INSTRUCTION_LOW, LOAD, NUMBER, X86_64,
};

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub number: u32,
    pub architecture: u32,
    pub instruction: u64,
    pub arguments: [u64; 6],
}

impl Data {
    pub fn new(number: i64, arguments: [u64; 6]) -> Self {
        Self {
            number: number as u32,
            architecture: X86_64,
            instruction: 0,
            arguments,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, offset: u32| (value >> (offset % 8 * 8)) as u32;
        match offset {
            NUMBER => self.number,
            ARCHITECTURE => self.architecture,
            INSTRUCTION_LOW | INSTRUCTION_HIGH => half(self.instruction, offset),
            _ => half(self.arguments[(offset - ARGUMENTS) as usize / 8], offset),
        }
    }
}

/// What the kernel makes of a program (networking/filter.rst, "BPF engine and instruction set").
pub fn run(program: &[sock_filter], data: &Data) -> u32 {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let step = program[at];
        let branch = |taken: bool| 1 + usize::from(if taken { step.jt } else { step.jf });
        at += match u32::from(step.code) {
            LOAD => {
                value = data.word(step.k);
                1
            }
            AND => {
                value &= step.k;
                1
            }
            GO => 1 + step.k as usize,
            IF_EQUAL => branch(value == step.k),
            IF_AT_LEAST => branch(value >= step.k),
            IF_ANY_BIT => branch(value & step.k != 0),
            END => return step.k,
            code => panic!("{code:#x}"),
        };
    }
}
