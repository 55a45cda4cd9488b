//! The text of the C program.

use std::fmt::Write as _;

use trace::decode::value::Kind;

/// The functions that the cases use.
const HEAD: &str = include_str!("head.c");

/// The text of the program.
#[derive(Debug, Default)]
pub struct Text {
    functions: String,
    names: Vec<String>,
    /// Name, kind and number of this case's call.
    call: String,
    sets: String,
    says: String,
    /// Blocks of memory in all, and before this case.
    blocks: usize,
    before: usize,
    values: u64,
    renames: Vec<(String, String)>,
}

impl Text {
    /// Begins a case.
    pub fn begin(&mut self, name: &str, kind: Kind) {
        self.call = format!("\"{name}\", \"{kind:?}\", {name}");
        self.sets = "\targument = 0;\n".to_owned();
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
        let _ = writeln!(self.sets, "\targument = (unsigned long long)b[{block}];");
    }

    /// The call's argument is a number of its own, or the given one.
    pub fn number(&mut self, path: &str, value: Option<&str>) {
        self.values += 1;
        let own = (0x1000 + self.values).to_string();
        self.names(path, value);
        let value = value.unwrap_or(&own);
        let _ = writeln!(self.sets, "\targument = {value};");
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
            "static void {name}_says(void)\n{{\n{}}}\n\n\
             static void {name}(void)\n{{\n{}\tfinish({}, {name}_says, {}, {});\n}}\n",
            self.says, self.sets, self.call, self.before, self.blocks
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
        let mut main = "int main(int count, char **words)\n{\n\
                        \tif (count > 1 && !strcmp(words[1], \"call\"))\n\t\topen_all();\n"
            .to_owned();
        for name in &self.names {
            let _ = writeln!(main, "\t{name}();");
        }
        format!("{HEAD}\n{}\n{main}\treturn 0;\n}}\n", self.functions)
    }
}
