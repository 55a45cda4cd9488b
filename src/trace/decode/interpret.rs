//! Walks an argument by the tables.
//!
//! The traced program may have anything in its memory: each length that comes from there is cut to
//! what is left of a budget, and no step depends on such a length otherwise.

use std::borrow::Cow;

use super::form::{Fails, Form, Target, Way, When};
use super::headers::{Base, Member};
use super::record::{self, Record};
use super::scalar::{self, Scalar};
use super::tables::{Argument, Direction, Tables};
use super::value::{Field, Kind, Memory, Value, is_padding};
use crate::guest::messages;

/// How many values a call may have, apart from those of one structure. KVM's table of 4,096 routes
/// has fewer.
const VALUES: u64 = 40_000;

/// How many capabilities a chain may have. The kernel has fewer kinds.
const CHAIN: usize = 32;

/// When a call is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At its start.
    Enter,
    /// After its end.
    Leave {
        /// The result, or the negated errno.
        result: i64,
    },
}

/// The fields of a call's argument that are of interest in the phase.
pub fn argument(
    kind: Kind,
    request: u32,
    argument: u64,
    phase: Phase,
    memory: &dyn Memory,
) -> Vec<Field> {
    let tables = Tables::get();
    let Some(entry) = tables.calls.get(&(kind, request)) else {
        return Vec::new();
    };
    let entered = phase == Phase::Enter;
    let mut walk = Walk {
        tables,
        memory,
        phase,
        ways: entry.direction == Direction::Both,
        left: VALUES,
    };
    let due = match entry.direction {
        Direction::None => false,
        Direction::In => entered,
        Direction::Out => matches!(phase, Phase::Leave { result: 0.. }),
        Direction::Both => true,
    };
    if let Argument::To(..) = entry.argument
        && record::read(memory, argument, 1).is_empty()
    {
        let shown = match argument {
            // KVM_SET_SIGNAL_MASK without a mask, for one.
            0 => Value::Pointer(0),
            _ => Value::Unreadable(argument),
        };
        return if entered {
            vec![field("arg", shown)]
        } else {
            Vec::new()
        };
    }
    match &entry.argument {
        _ if !due => Vec::new(),
        Argument::None => Vec::new(),
        Argument::Value(form) => {
            let scalar = Scalar::unsigned(argument, 8);
            vec![field("arg", scalar::value(scalar, form))]
        }
        Argument::To("text", _) => vec![field("arg", record::text(memory, argument))],
        Argument::To(base, form) => match Base::of(base) {
            Base::Record(record) => walk.call_record(record, argument),
            base => {
                let value = walk.elements(base, argument, None, form);
                vec![field("arg", value)]
            }
        },
    }
}

fn field(name: &'static str, value: Value) -> Field {
    Field {
        name: Cow::Borrowed(name),
        value,
    }
}

struct Walk<'a> {
    tables: &'static Tables,
    memory: &'a dyn Memory,
    phase: Phase,
    /// Whether the fields have ways of their own.
    ways: bool,
    /// The values that may still be made.
    left: u64,
}

impl Walk<'_> {
    /// The structure that a call's argument points to.
    fn call_record(&mut self, name: &'static str, at: u64) -> Vec<Field> {
        // VFIO's and iommufd's structures begin with their size by the program.
        let first = record::known(name)
            .and_then(|known| known.fields.first())
            .map(|first| first.name);
        let sized = first == Some("argsz") || first == Some("size") && name.starts_with("iommu_");
        let end = sized.then(|| {
            let mut size = [0; 4];
            let read = self.memory.read(at, &mut size);
            // The size itself is there, also if the program says that nothing is.
            let size = if read == 4 {
                u32::from_ne_bytes(size).max(4)
            } else {
                4
            };
            at.saturating_add(u64::from(size))
        });
        let way = if self.ways {
            Way {
                enters: When::Always,
                ..Way::default()
            }
        } else {
            ALWAYS
        };
        self.record(name, at, end, way)
    }

    fn record(&mut self, name: &'static str, at: u64, end: Option<u64>, way: Way) -> Vec<Field> {
        let Some(known) = record::known(name) else {
            return Vec::new();
        };
        let bytes = record::read(self.memory, at, known.size);
        let record = Record {
            name,
            known,
            at,
            bytes: &bytes,
            end,
            way,
        };
        let mut fields = Vec::new();
        for member in &known.fields {
            // The padding of a union is another member's bytes.
            if !(known.union && is_padding(member.name)) {
                self.member(&record, member, &mut fields);
            }
        }
        if MESSAGES.contains(&name) {
            fields.extend(message(&record));
        }
        fields
    }

    fn member(&mut self, record: &Record<'_>, member: &'static Member, fields: &mut Vec<Field>) {
        self.left = self.left.saturating_sub(1);
        let at = record.at.wrapping_add(member.offset as u64);
        let size = self.tables.headers.size(member.base).unwrap_or(0);
        let whole = size * member.elements.unwrap_or(1);
        if record
            .end
            .is_some_and(|end| at.saturating_add(whole as u64) > end)
        {
            return;
        }
        let rule = self.tables.rule(record.name, member.name);
        let own = rule.and_then(|rule| rule.way);
        let (mut form, mut way) = (
            rule.map_or(&Form::Plain, |rule| &rule.form),
            own.unwrap_or(record.way),
        );
        if let Form::By(by, mask) = form {
            let value = record.number(by).map(|value| value & mask);
            let case = value.and_then(|value| self.tables.case(record.name, member.name, value));
            form = case.map_or(&Form::Plain, |case| &case.form);
            way = match case {
                Some(case) => case.way.unwrap_or(way),
                // A number of which nothing is known is shown as it is.
                None if !matches!(member.base, Base::Record(_)) => Way {
                    enters: When::Always,
                    ..way
                },
                None => way,
            };
        }
        if *form == Form::Skip {
            return;
        }
        if !self.due(record, way) {
            // The address at least, of what will be written.
            if let (Form::To(_), Phase::Enter) = (form, self.phase)
                && let Some(pointer) = record.number(member.name)
            {
                fields.push(field(member.name, Value::Pointer(pointer)));
            }
            return;
        }
        // What is inside of a field that is of interest is so too, if it has no way of its own.
        let value = self.shaped(record, member, at, form, ALWAYS);
        let Some(value) = value else { return };
        fields.push(field(member.name, value));
        if let Form::Chain(names) = form {
            let chain = self.chain(record, member, names);
            if !chain.is_empty() {
                fields.push(field("capabilities", Value::List(chain, 0)));
            }
        }
    }

    /// The value of a field; `None` for an open array that is not known to be there.
    fn shaped(
        &mut self,
        record: &Record<'_>,
        member: &'static Member,
        at: u64,
        form: &Form,
        way: Way,
    ) -> Option<Value> {
        Some(match form {
            Form::Member(name) => match member.elements {
                Some(count) => {
                    let size = self.tables.headers.size(member.base).unwrap_or(0) as u64;
                    let one = |walk: &mut Self, index: u64| {
                        walk.union_member(member.base, at.wrapping_add(index * size), name, way)
                    };
                    self.list(count as u64, one)
                }
                None => self.union_member(member.base, at, name, way),
            },
            Form::Count(length, inner) => {
                let count = record.length(*length)?;
                let count = match member.elements {
                    Some(fixed) if !member.open => count.min(fixed as u64),
                    _ => count,
                };
                self.many(member.base, at, count, inner, record, way)
            }
            Form::As(target) => self.target(record, at, target, way)?,
            Form::To(target) => {
                let pointer = record.number(member.name)?;
                let outside = Record {
                    end: None,
                    ..*record
                };
                if pointer == 0 {
                    Value::Pointer(0)
                } else {
                    self.target(&outside, pointer, target, way)?
                }
            }
            _ if member.open => return None,
            Form::Bytes => {
                let size = self.tables.headers.size(member.base)?;
                record::bytes(
                    self.memory,
                    at,
                    (size * member.elements.unwrap_or(1)) as u64,
                )
            }
            form => match member.elements {
                Some(count) => self.many(member.base, at, count as u64, form, record, way),
                None => self.one(member, at, form, record, way),
            },
        })
    }

    /// A field that is no array.
    fn one(
        &mut self,
        member: &'static Member,
        at: u64,
        form: &Form,
        record: &Record<'_>,
        way: Way,
    ) -> Value {
        match member.base {
            Base::Record(name) => Value::Record(self.record(name, at, record.end, way)),
            base => {
                let bytes = record.bytes.get(member.offset..).unwrap_or_default();
                match Scalar::read(base, bytes) {
                    Some(read) => scalar::value(read.bits(member.bits), form),
                    None => Value::Unreadable(at),
                }
            }
        }
    }

    /// Elements of a type behind a pointer or in place of bytes.
    fn target(&mut self, record: &Record<'_>, at: u64, target: &Target, way: Way) -> Option<Value> {
        let base = Base::of(target.base);
        let Some(length) = target.length else {
            return Some(match base {
                Base::Record(name) => Value::Record(self.record(name, at, record.end, way)),
                base => self.elements(base, at, None, &target.form),
            });
        };
        let count = record.length(length)?;
        Some(self.many(base, at, count, &target.form, record, way))
    }

    /// Elements after each other.
    fn many(
        &mut self,
        base: Base,
        at: u64,
        count: u64,
        form: &Form,
        record: &Record<'_>,
        way: Way,
    ) -> Value {
        let size = self.tables.headers.size(base).unwrap_or(0) as u64;
        // What lies behind the end that the program gave is not the structure's.
        let fitting = record
            .end
            .map_or(u64::MAX, |end| end.saturating_sub(at) / size.max(1));
        let count = count.min(fitting);
        match base {
            Base::Record(name) => self.list(count, |walk, index| {
                let at = at.wrapping_add(index.wrapping_mul(size));
                Value::Record(walk.record(name, at, record.end, way))
            }),
            base => self.elements(base, at, Some(count), form),
        }
    }

    /// Numbers after each other; one alone if there is no count.
    fn elements(&mut self, base: Base, at: u64, count: Option<u64>, form: &Form) -> Value {
        let size = self.tables.headers.size(base).unwrap_or(1).max(1);
        let single = size == 1 && matches!(form, Form::Plain);
        if let Some(count) = count
            && (single || *form == Form::Bytes)
        {
            return record::bytes(self.memory, at, count.saturating_mul(size as u64));
        }
        let one = |walk: &mut Self, index: u64| {
            let at = at.wrapping_add(index.wrapping_mul(size as u64));
            let mut bytes = [0; 8];
            let read = walk.memory.read(at, &mut bytes[..size]);
            let form = match form {
                Form::First(first) if index == 0 => first,
                Form::First(_) => &Form::Plain,
                form => form,
            };
            match Scalar::read(base, &bytes[..read.min(size)]) {
                Some(scalar) => scalar::value(scalar, form),
                None => Value::Unreadable(at),
            }
        };
        match count {
            Some(count) => self.list(count, one),
            None => one(self, 0),
        }
    }

    /// Makes as many values as the budget allows, and stops at memory that cannot be read.
    fn list(&mut self, count: u64, mut one: impl FnMut(&mut Self, u64) -> Value) -> Value {
        let mut values = Vec::new();
        let mut index = 0;
        while index < count && self.left > 0 {
            self.left -= 1;
            let value = one(self, index);
            index += 1;
            let stop = record::is_unreadable(&value);
            values.push(value);
            if stop {
                break;
            }
        }
        Value::List(values, count - index)
    }

    fn union_member(&mut self, base: Base, at: u64, name: &str, way: Way) -> Value {
        let known = match base {
            Base::Record(record) => record::known(record).zip(Some(record)),
            _ => None,
        };
        let Some((known, record)) = known else {
            return Value::Unreadable(at);
        };
        let bytes = record::read(self.memory, at, known.size);
        let union = Record {
            name: record,
            known,
            at,
            bytes: &bytes,
            end: None,
            way,
        };
        let mut fields = Vec::new();
        if let Some(member) = known.fields.iter().find(|member| member.name == name) {
            self.member(&union, member, &mut fields);
        }
        Value::Record(fields)
    }

    /// The capabilities from the offset in `member` on.
    fn chain(
        &mut self,
        record: &Record<'_>,
        member: &Member,
        names: &[(u64, &'static str)],
    ) -> Vec<Value> {
        let mut found = Vec::new();
        let mut offset = record.number(member.name).unwrap_or(0);
        while offset != 0 && found.len() < CHAIN && self.left > 0 {
            self.left -= 1;
            let at = record.at.wrapping_add(offset);
            if record.end.is_some_and(|end| at.saturating_add(8) > end) {
                break;
            }
            let header = record::read(self.memory, at, 8);
            let (Some(id), Some(next)) = (
                Scalar::read(Base::Unsigned(2), &header),
                header
                    .get(4..)
                    .and_then(|next| Scalar::read(Base::Unsigned(4), next)),
            ) else {
                found.push(Value::Unreadable(at));
                break;
            };
            let case = self.tables.case(record.name, member.name, id.raw);
            let target = match case.map(|case| &case.form) {
                Some(Form::As(target)) => target.base,
                _ => HEADER,
            };
            let mut fields = self.record(target, at, record.end, ALWAYS);
            if target == HEADER {
                fields = vec![field("header", Value::Record(fields))];
            }
            if let Some(Value::Record(header)) = fields.first_mut().map(|first| &mut first.value)
                && let Some(first) = header.first_mut()
            {
                first.value = scalar::named(id, names);
            }
            found.push(Value::Record(fields));
            offset = next.raw;
        }
        found
    }

    /// Whether a field is of interest in this phase.
    fn due(&self, record: &Record<'_>, way: Way) -> bool {
        if !self.ways {
            return true;
        }
        let holds = |when: When| match when {
            When::Never => false,
            When::Always => true,
            When::Bits(name, mask) => record.number(name).is_some_and(|raw| raw & mask != 0),
        };
        match self.phase {
            Phase::Enter => holds(way.enters),
            Phase::Leave { result: 0.. } => holds(way.leaves),
            Phase::Leave { result } => match way.fails {
                Fails::Never => false,
                Fails::With(errno) => errno.checked_neg() == Some(result),
                Fails::Any => true,
            },
        }
    }
}

/// Structures with address_lo, address_hi and data of a message-signalled interrupt.
const MESSAGES: [&str; 2] = ["kvm_irq_routing_msi", "kvm_msi"];

/// What an interrupt message means.
fn message(record: &Record<'_>) -> Option<Field> {
    let low = record.number("address_lo")?;
    let data = u32::try_from(record.number("data")?).ok()?;
    // KVM takes bits of the high half as more bits of the destination (KVM_CAP_X2APIC_API), and
    // what they are depends on the machine.
    let text = (record.number("address_hi")? == 0).then(|| messages::describe(low, data))??;
    Some(field("message", Value::Text(text)))
}

/// The structure that each capability begins with.
const HEADER: &str = "vfio_info_cap_header";

/// The way of fields where ways do not count.
const ALWAYS: Way = Way {
    enters: When::Always,
    leaves: When::Always,
    fails: Fails::Any,
};
