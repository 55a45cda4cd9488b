//! The table's text.

use std::fmt::Write as _;

use crate::declared::{Kind, Types};
use crate::expression::Names;
use crate::layout::{self, Field};
use crate::preprocess::Macros;
use crate::tokens::Token;

const HEAD: &str = "\
# The calls, structures and constants of linux/kvm.h (x86), linux/vfio.h and linux/iommufd.h.
# Written by `cargo run -p headers`; do not edit. What a field means is in fields.txt.
";

/// Calls of other processors, whose structures some headers declare for all. Their numbers may
/// be those of x86's calls.
const FOREIGN: [&str; 6] = [
    "KVM_S390_",
    "KVM_PPC_",
    "KVM_ARM_",
    "VFIO_IOMMU_SPAPR_",
    "VFIO_EEH_",
    "KVM_DIRTY_TLB",
];

/// The macros of linux/ioctl.h with the two bits of their direction.
const MAKERS: [(&str, u64); 4] = [("_IO", 0), ("_IOW", 1), ("_IOR", 2), ("_IOWR", 3)];

/// Writes the table.
pub fn table(macros: &Macros, types: &Types, version: &str) -> Result<String, String> {
    let layouts = layout::of(types)?;
    let names = Names { macros, types };
    let mut text = format!("{HEAD}linux {version}\n\n");
    let mut constants = String::new();
    let mut left_out = String::new();
    for name in macros.names() {
        let tokens = macros.get(name).unwrap_or_default();
        if let Some(maker) = maker(tokens) {
            if FOREIGN.iter().any(|foreign| name.starts_with(foreign)) {
                let _ = writeln!(left_out, "# {name}");
                continue;
            }
            match call(maker, tokens, &names, &layouts) {
                Ok((number, argument)) => {
                    let _ = writeln!(text, "call {name} {number:#010x} {argument}");
                }
                // Its structure is another processor's.
                Err(None) => {
                    let _ = writeln!(left_out, "# {name}");
                }
                Err(Some(error)) => return Err(format!("{name}: {error}")),
            }
        } else if let Some(value) = names.value(tokens)
            && !types.constants.contains_key(name)
        {
            let _ = writeln!(constants, "const {name} {value:#x}");
        }
    }
    let _ = write!(text, "\n# Not calls of x86:\n{left_out}\n{constants}");
    for (name, members) in &types.enums {
        let _ = writeln!(text, "\nenum {name}");
        for member in members {
            let value = types.constants[member];
            let _ = writeln!(text, "\t{member} {value:#x}");
        }
    }
    for record in &types.records {
        if record.name.contains(".#") {
            continue;
        }
        let layout = &layouts[record.name.as_str()];
        let kind = match record.kind {
            Kind::Struct => "struct",
            Kind::Union => "union",
        };
        let _ = writeln!(text, "\n{kind} {} {}", record.name, layout.size);
        for field in &layout.fields {
            let _ = writeln!(text, "\t{}", line(field));
        }
    }
    Ok(text)
}

fn maker(tokens: &[Token]) -> Option<u64> {
    let word = tokens.first()?.word()?;
    let found = MAKERS.iter().find(|(name, _)| *name == word);
    found.map(|(_, direction)| *direction)
}

/// The number of a call and the name of its argument's type. An error without a text is a
/// structure that these headers do not have.
fn call(
    direction: u64,
    tokens: &[Token],
    names: &Names<'_>,
    layouts: &std::collections::HashMap<&str, layout::Layout>,
) -> Result<(u64, String), Option<String>> {
    let inner = tokens
        .get(2..tokens.len().saturating_sub(1))
        .ok_or_else(|| Some("no arguments".to_owned()))?;
    let mut parts = inner.split(|token| token.is(","));
    let mut value = |what: &str| {
        parts
            .next()
            .and_then(|part| names.value(part))
            .ok_or_else(|| Some(format!("no {what}")))
    };
    let number = value("type")? << 8 | value("number")?;
    let Some(argument) = parts.next() else {
        return Ok((number, "-".to_owned()));
    };
    let words: Vec<&str> = argument.iter().filter_map(Token::word).collect();
    let (size, name) = match words[..] {
        ["struct", name] => (layouts.get(name).ok_or(None)?.size, name),
        ["__u64"] | ["unsigned", "long"] => (8, "u64"),
        ["__u32"] => (4, "u32"),
        ["int"] => (4, "s32"),
        _ => return Err(Some(format!("the type {words:?} is not known"))),
    };
    Ok((direction << 30 | size << 16 | number, name.to_owned()))
}

/// `name offset type`, with the type as `u8[8][16]`, `kvm_msr_entry[]` or `u8:3+2` for three
/// bits from bit 2 on.
fn line(field: &Field) -> String {
    let mut text = format!("{} {} {}", field.name, field.offset, field.base);
    for length in &field.lengths {
        match length {
            Some(length) => {
                let _ = write!(text, "[{length}]");
            }
            None => text.push_str("[]"),
        }
    }
    if let Some((first, width)) = field.bits {
        let _ = write!(text, ":{width}+{first}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_table(text: &str) -> Result<String, String> {
        let (mut macros, mut types) = (Macros::default(), Types::default());
        let code = macros.read(text)?;
        crate::types::read(&code, &mut types, &macros)?;
        table(&macros, &types, "1")
    }

    fn written(text: &str) -> String {
        try_table(text).unwrap()
    }

    #[test]
    fn calls_and_structures_are_written() {
        let text = written(
            "#define T 0xAE\n#define N (1 << 3) /* eight */\n\
             enum e { A = 3, B, };\n\
             struct inner { __u8 a:3, b:6; };\n\
             struct s {\n\t__u8 first;\n\tunion { __u32 x; void *p; };\n\
             #ifdef ABSENT\n\t__u64 absent;\n#endif\n\
             \tstruct inner many[N];\n\t__u16 last;\n\tstruct { __u8 y; } in;\n\
             \t__DECLARE_FLEX_ARRAY(__u64, rest);\n};\n\
             #define CALL _IOWR(T, \\\n\t0x02, struct s)\n#define OTHER _IO(T, 3)\n\
             #define KVM_S390_X _IO(T, 3)\n#define UNKNOWN _IOW(T, 4, struct absent)\n",
        );
        for expected in [
            // A byte and a pointer, eight times two bytes, two and one, padded to eight.
            "call CALL 0xc028ae02 s\ncall OTHER 0x0000ae03 -\n",
            "# KVM_S390_X\n# UNKNOWN\n",
            "const T 0xae\nconst N 0x8\n",
            "enum e\n\tA 0x3\n\tB 0x4\n",
            "struct inner 2\n\ta 0 u8:3+0\n\tb 1 u8:6+0\n",
            "struct s 40\n\tfirst 0 u8\n\tx 8 u32\n\tp 8 ptr\n\tmany 16 inner[8]\n\
             \tlast 32 u16\n\tin 34 s.in\n\trest 40 u64[]\n",
            "struct s.in 1\n\ty 0 u8\n",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
        assert!(!text.contains("const CALL"));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let read = try_table;
        assert!(read("#if A > 2\n#endif\n").is_err());
        assert!(read("struct s { strange x; };").is_err());
        assert!(read("struct s { struct absent x; };").is_err());
        assert!(read("struct s { __u8 x[UNKNOWN]; };").is_err());
        assert!(read("#define C _IOW(1, 2, strange)\n").is_err());
    }
}
