//! The C program: its text, its run, and what it prints.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use trace::decode::value::{Kind, Memory};

const HEAD: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/iommufd.h>

#define BLOCK 16384
static unsigned char *b[4096];

static void *block(int index)
{
	return b[index] = calloc(1, BLOCK);
}

static void say(const char *path, unsigned size, unsigned long long value)
{
	printf("expect %s %u %llx\n", path, size, value);
}

static void dump(int from, int to)
{
	for (int index = from; index < to; index++) {
		int end = BLOCK;
		while (end && !b[index][end - 1])
			end--;
		printf("block %llx ", (unsigned long long)b[index]);
		for (int at = 0; at < end; at++)
			printf("%02x", b[index][at]);
		printf(".\n");
	}
}
"#;

/// The text of the program.
#[derive(Debug, Default)]
pub struct Text {
    functions: String,
    names: Vec<String>,
    sets: String,
    says: String,
    /// Blocks of memory in all, and before this case.
    blocks: usize,
    before: usize,
    values: u64,
    renames: Vec<(String, String)>,
}

impl Text {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a case.
    pub fn begin(&mut self, name: &str, kind: Kind) {
        self.sets = format!("\tprintf(\"case {name} {kind:?} %x\\n\", (unsigned){name});\n");
        self.says.clear();
        self.renames.clear();
        self.before = self.blocks;
    }

    /// The type in the call's number, by the tables: all calls of KVM whose number has a size.
    pub fn header_type(&self, name: &str) -> Option<String> {
        let table = include_str!("../../../../src/trace/decode/table/headers.txt");
        let line = table.lines().find_map(|line| {
            let rest = line.strip_prefix("call ")?.strip_prefix(name)?;
            rest.strip_prefix(' ')
        })?;
        match line.split_once(' ')?.1 {
            "-" => None,
            "u64" => Some("__u64".to_owned()),
            record => Some(format!("struct {record}")),
        }
    }

    /// A new block of memory.
    pub fn block(&mut self) -> usize {
        let block = self.blocks;
        self.blocks += 1;
        let _ = writeln!(self.sets, "\tblock({block});");
        block
    }

    /// The call's argument is the address of a block.
    pub fn argument(&mut self, block: usize) {
        let _ = writeln!(
            self.sets,
            "\tprintf(\"argument %llx\\n\", (unsigned long long)b[{block}]);"
        );
    }

    /// The call's argument is a number of its own, or the given one.
    pub fn number(&mut self, path: &str, value: Option<&str>) {
        self.values += 1;
        let own = (0x1000 + self.values).to_string();
        self.names(path, value);
        let value = value.unwrap_or(&own);
        let _ = writeln!(self.sets, "\tprintf(\"argument %x\\n\", {value});");
        let _ = writeln!(self.says, "\tsay(\"{path}\", 8, {value});");
    }

    /// The value is made of constants, so the decoder must say their names.
    fn names(&mut self, path: &str, value: Option<&str>) {
        let constant = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase());
        if let Some(value) = value.filter(|value| value.split('|').all(constant)) {
            let path = self.shown(path);
            let _ = writeln!(self.says, "\tprintf(\"names {path} {value}\\n\");");
        }
    }

    /// The call's argument is the address of a name.
    pub fn device(&mut self, path: &str, name: &str) {
        let block = self.block();
        self.argument(block);
        let _ = writeln!(self.sets, "\tstrcpy((char *)b[{block}], \"{name}\");");
        for (index, byte) in name.bytes().enumerate() {
            let _ = writeln!(self.says, "\tsay(\"{path}[{index}]\", 1, {byte});");
        }
    }

    /// Gives a field a value of its own, or the given one.
    pub fn set(&mut self, at: &str, path: &str, value: Option<&str>) {
        self.values += 1;
        let n = self.values;
        let own = format!(
            "(__typeof__({at}))({:#x}ull + {n})",
            0x4142_4300_0041_0041_u64
        );
        // The top bits stay clear, so that a sign changes nothing.
        let own = value.map_or(
            format!(
                "sizeof({at}) == 1 ? (__typeof__({at})){} : {own}",
                1 + n % 120
            ),
            |value| format!("(__typeof__({at}))({value})"),
        );
        let _ = writeln!(self.sets, "\t{at} = {own};");
        self.say(at, path);
        self.names(path, value);
    }

    /// The same for a bit field.
    pub fn set_bits(&mut self, at: &str, path: &str, bits: Option<(u64, u64)>) {
        self.values += 1;
        let width = bits.map_or(1, |(_, width)| width);
        let value = (self.values % 7 + 1) & ((1 << width) - 1);
        let _ = writeln!(self.sets, "\t{at} = {value};");
        let path = self.shown(path);
        let _ = writeln!(self.says, "\tsay(\"{path}\", 0, {at});");
    }

    /// The field is the address of a block.
    pub fn pointer(&mut self, at: &str, block: usize) {
        let _ = writeln!(
            self.sets,
            "\t{at} = (__typeof__({at}))(unsigned long)b[{block}];"
        );
    }

    /// Fields whose path begins with `own` are looked for below `path`.
    pub fn rename(&mut self, own: &str, path: &str) {
        self.renames.push((own.to_owned(), path.to_owned()));
    }

    fn shown(&self, path: &str) -> String {
        let renamed = self.renames.iter().find_map(|(own, new)| {
            let rest = path.strip_prefix(own)?;
            Some(format!("{new}{rest}"))
        });
        renamed.unwrap_or_else(|| path.to_owned())
    }

    fn say(&mut self, at: &str, path: &str) {
        let path = self.shown(path);
        let _ = writeln!(
            self.says,
            "\tsay(\"{path}\", sizeof({at}), (unsigned long long){at});"
        );
    }

    /// Ends a case. What is looked for is what is in memory after the last value is set.
    pub fn end(&mut self) {
        let name = format!("case_{}", self.names.len());
        let _ = writeln!(
            self.functions,
            "static void {name}(void)\n{{\n{}{}\tdump({}, {});\n}}\n",
            self.sets, self.says, self.before, self.blocks
        );
        self.names.push(name);
    }

    /// A function that prints the type if a byte is left.
    pub fn cover(&mut self, shown: &str, statements: &[String], padding: bool) {
        let clear = if padding {
            "__builtin_clear_padding(&x);"
        } else {
            ""
        };
        let name = format!("case_{}", self.names.len());
        let _ = writeln!(
            self.functions,
            "static void {name}(void)\n{{\n\tstatic {shown} x;\n\
             \tmemset(&x, 0xff, sizeof(x));\n\t{clear}\n\t{}\n\
             \tfor (unsigned at = 0; at < sizeof(x); at++)\n\t\tif (((unsigned char *)&x)[at])\n\
             \t\t\tprintf(\"{shown} has no field at %u\\n\", at);\n}}\n",
            statements.join("\n\t")
        );
        self.names.push(name);
    }

    /// The whole program.
    pub fn whole(&self) -> String {
        let mut main = "int main(void)\n{\n".to_owned();
        for name in &self.names {
            let _ = writeln!(main, "\t{name}();");
        }
        format!("{HEAD}\n{}\n{main}\treturn 0;\n}}\n", self.functions)
    }
}

/// Compiles the program against the headers, and runs it.
pub fn run(text: &str, include: &Path) -> String {
    // Each test has a program of its own.
    let name = std::thread::current().name().unwrap_or("calls").to_owned();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (dir.join(format!("{name}.c")), dir.join(&name));
    std::fs::write(&source, text).unwrap();
    let compiler = Command::new("cc")
        .args(["-w", "-O0", "-isystem"])
        .arg(include.join("x86_64-linux-gnu"))
        .arg("-isystem")
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("cc");
    let said = String::from_utf8_lossy(&compiler.stderr);
    assert!(compiler.status.success(), "{said}");
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// What the program says of one call.
#[derive(Debug)]
pub struct Case {
    /// The name.
    pub name: String,
    /// The kind of file.
    pub kind: Kind,
    /// The number by the C compiler.
    pub number: u32,
    /// The argument.
    pub argument: u64,
    /// The values to be found.
    pub expected: Vec<Expected>,
    /// The names to be found, by path.
    pub names: Vec<(String, Vec<String>)>,
    /// The program's memory.
    pub memory: Blocks,
}

/// A value to be found.
#[derive(Debug)]
pub struct Expected {
    /// The names and indexes to the field.
    pub path: String,
    /// Its size in bytes; 0 for a bit field.
    pub size: usize,
    /// The value.
    pub value: u64,
}

/// The program's blocks of memory by their address.
#[derive(Debug, Default)]
pub struct Blocks(HashMap<u64, Vec<u8>>);

/// The size of a block.
const BLOCK: u64 = 16_384;

impl Memory for Blocks {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let found = self
            .0
            .iter()
            .find(|(start, _)| (**start..**start + BLOCK).contains(&address));
        let Some((start, bytes)) = found else {
            return 0;
        };
        let offset = (address - start) as usize;
        let size = into.len().min(BLOCK as usize - offset);
        for (index, byte) in into[..size].iter_mut().enumerate() {
            *byte = bytes.get(offset + index).copied().unwrap_or(0);
        }
        size
    }
}

/// Reads what the program printed.
pub fn read(output: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    for line in output.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["case", name, kind, number] => cases.push(Case {
                name: name.to_owned(),
                kind: trace::decode::calls::all()
                    .map(|(kind, ..)| kind)
                    .find(|own| format!("{own:?}") == kind)
                    .unwrap(),
                number: hex(number) as u32,
                argument: 0,
                expected: Vec::new(),
                names: Vec::new(),
                memory: Blocks::default(),
            }),
            ["argument", value] => cases.last_mut().unwrap().argument = hex(value),
            ["expect", path, size, value] => {
                let expected = Expected {
                    path: path.to_owned(),
                    size: size.parse().unwrap(),
                    value: hex(value),
                };
                cases.last_mut().unwrap().expected.push(expected);
            }
            ["names", path, names] => {
                let names = names.split('|').map(str::to_owned).collect();
                let known = &mut cases.last_mut().unwrap().names;
                known.push((path.to_owned(), names));
            }
            ["block", address, bytes] => {
                let bytes = bytes.trim_end_matches('.').as_bytes();
                let bytes = bytes
                    .chunks(2)
                    .map(|pair| hex(std::str::from_utf8(pair).unwrap()) as u8)
                    .collect();
                let blocks = &mut cases.last_mut().unwrap().memory.0;
                blocks.insert(hex(address), bytes);
            }
            _ => panic!("{line}"),
        }
    }
    cases
}
