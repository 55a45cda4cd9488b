//! The tables are whole, and nothing that a traced program has in its memory does harm.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::calls::{self, Call};
use super::form::{Form, Length, Target};
use super::headers::{Base, Headers, plain};
use super::tables::Tables;
use super::value::{Field, Kind, Memory, Value};

/// Bytes at an address, and nothing elsewhere.
struct At(u64, Vec<u8>);

impl Memory for At {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let offset = usize::try_from(address.wrapping_sub(self.0)).unwrap_or(usize::MAX);
        let rest = self.1.get(offset..).unwrap_or_default();
        let size = rest.len().min(into.len());
        into[..size].copy_from_slice(&rest[..size]);
        size
    }
}

/// The same bytes again and again, at each address.
struct Everywhere(Vec<u8>);

impl Memory for Everywhere {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let start = (address % self.0.len() as u64) as usize;
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.0[(start + index) % self.0.len()];
        }
        into.len()
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn number(name: &str) -> u32 {
    calls::all().find(|call| call.2 == name).unwrap().1
}

fn enter(kind: Kind, name: &str, bytes: Vec<u8>) -> Vec<Field> {
    let call = Call {
        kind,
        request: number(name),
        argument: 0x1000,
    };
    calls::enter(&call, &At(0x1000, bytes))
}

fn value<'a>(fields: &'a [Field], name: &str) -> &'a Value {
    let found = fields.iter().find(|field| field.name == name);
    &found
        .unwrap_or_else(|| panic!("no {name} in {fields:?}"))
        .value
}

#[test]
fn the_tables_are_read() {
    Tables::read().unwrap();
    assert!(calls::version().starts_with(|c: char| c.is_ascii_digit()));
}

#[test]
fn every_call_of_the_headers_says_what_it_is_for() {
    let known: HashSet<&str> = calls::all().map(|(_, _, name)| name).collect();
    for (name, ..) in &Headers::read().unwrap().calls {
        assert!(known.contains(name), "calls.txt lacks {name}");
    }
    for (kind, number, name) in calls::all() {
        let why = calls::why(kind, number).unwrap();
        // Half a line of a terminal and a bit, with a full stop.
        assert!(
            why.text.ends_with('.') && why.text.len() <= 100,
            "{name}: {why:?}"
        );
        assert!(
            why.document.starts_with("Documentation/") || why.document.starts_with("include/"),
            "{name}: {why:?}"
        );
    }
}

/// What fields.txt names is in the headers: types, members, and fields with lengths.
#[test]
fn each_form_names_what_there_is() {
    let tables = Tables::get();
    for (record, field, form) in tables.forms() {
        let known = &tables.headers.types[plain(record)];
        let has = |name: &str| {
            let found = known.fields.iter().any(|member| member.name == name);
            assert!(found, "{record}.{field}: no field {name}");
        };
        let length = |length: &Length| {
            if let Length::Field(name, _, by) = length {
                has(name);
                assert_ne!(*by, 0);
            }
        };
        match form {
            Form::By(name, _) => has(name),
            Form::Count(count, _) => length(count),
            Form::To(target) | Form::As(target) => {
                let Target {
                    base,
                    length: count,
                    ..
                } = target;
                if let Base::Record(name) = Base::of(base) {
                    assert!(tables.headers.types.contains_key(plain(name)), "{base}");
                }
                count.iter().for_each(length);
            }
            Form::Member(name) => {
                let member = known.fields.iter().find(|member| member.name == field);
                let Base::Record(union) = member.unwrap().base else {
                    panic!("{record}.{field} is no union");
                };
                let union = &tables.headers.types[union];
                assert!(union.union && union.fields.iter().any(|own| own.name == *name));
            }
            _ => {}
        }
    }
}

/// VFIO_DEVICE_PCI_HOT_RESET and VFIO_IOMMU_MAP_DMA have one number.
#[test]
fn the_file_tells_a_number_apart() {
    for (kind, name) in [
        (Kind::Device, Some("VFIO_DEVICE_PCI_HOT_RESET")),
        (Kind::Container, Some("VFIO_IOMMU_MAP_DMA")),
        (Kind::Iommufd, Some("VFIO_IOMMU_MAP_DMA")),
        (Kind::Group, None),
        (Kind::Vm, None),
    ] {
        assert_eq!(calls::name(kind, 0x3b71), name);
        assert_eq!(calls::why(kind, 0x3b71).is_some(), name.is_some());
    }
    assert_eq!(calls::name(Kind::Vcpu, number("KVM_RUN")), Some("KVM_RUN"));
    assert_eq!(calls::name(Kind::Device, number("KVM_RUN")), None);
}

#[test]
fn descriptors_and_flags_have_names() {
    // argsz, flags, index, start, count, two eventfds.
    let data = words(&[28, 0x24, 2, 0, 2, 7, u32::MAX]);
    let fields = enter(Kind::Device, "VFIO_DEVICE_SET_IRQS", data);
    let names = vec!["VFIO_IRQ_SET_DATA_EVENTFD", "VFIO_IRQ_SET_ACTION_TRIGGER"];
    let flags = Value::Flags {
        raw: 0x24,
        names,
        rest: 0,
    };
    assert_eq!(value(&fields, "flags"), &flags);
    assert_eq!(
        value(&fields, "index"),
        &Value::Name(2, "VFIO_PCI_MSIX_IRQ_INDEX")
    );
    let eventfds = vec![Value::Descriptor(7), Value::Descriptor(-1)];
    assert_eq!(value(&fields, "data"), &Value::List(eventfds, 0));
}

#[test]
fn a_route_says_what_its_message_means() {
    // nr, flags; gsi, type, flags, pad, address_lo, address_hi, data, five words of the union.
    let mut data = vec![2, 0];
    data.extend([24, 2, 0, 0, 0xfee0_1000, 0, 0x4031, 0, 0, 0, 0, 0]);
    data.extend([25, 1, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0]);
    let fields = enter(Kind::Vm, "KVM_SET_GSI_ROUTING", words(&data));
    let Value::List(entries, 0) = value(&fields, "entries") else {
        panic!("{fields:?}");
    };
    let inner = |index: usize, name: &str| {
        let Value::Record(entry) = &entries[index] else {
            panic!("{entries:?}");
        };
        let Value::Record(union) = value(entry, "u") else {
            panic!("{entry:?}");
        };
        match value(union, name) {
            Value::Record(member) => member.clone(),
            other => panic!("{other:?}"),
        }
    };
    let text = Value::Text("vector 0x31, CPU 1".to_owned());
    assert_eq!(value(&inner(0, "msi"), "message"), &text);
    assert_eq!(value(&inner(1, "irqchip"), "pin"), &Value::Decimal(3));
    let chip = Value::Name(2, "KVM_IRQCHIP_IOAPIC");
    assert_eq!(value(&inner(1, "irqchip"), "irqchip"), &chip);
}

/// The feature's number is in the flags.
#[test]
fn a_feature_is_decoded_by_its_number() {
    let data = words(&[16, 1 << 17 | 2, 3, 9]);
    let call = Call {
        kind: Kind::Device,
        request: number("VFIO_DEVICE_FEATURE"),
        argument: 0x1000,
    };
    let memory = At(0x1000, data);
    let names = vec![
        "VFIO_DEVICE_FEATURE_SET",
        "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
    ];
    let entered = calls::enter(&call, &memory);
    let flags = Value::Flags {
        raw: 0x2_0002,
        names,
        rest: 0,
    };
    assert_eq!(value(&entered, "flags"), &flags);
    let Value::Record(state) = value(&entered, "data") else {
        panic!("{entered:?}");
    };
    let stop = Value::Name(3, "VFIO_DEVICE_STATE_STOP_COPY");
    assert_eq!(value(state, "device_state"), &stop);
    // The kernel opens a file for the state.
    assert!(!state.iter().any(|field| field.name == "data_fd"));
    let left = calls::leave(&call, 0, &memory);
    let Value::Record(state) = value(&left, "data") else {
        panic!("{left:?}");
    };
    assert_eq!(value(state, "data_fd"), &Value::Descriptor(9));
    assert_eq!(calls::leave(&call, -22, &memory), []);
}

#[test]
fn what_has_no_name_is_hexadecimal() {
    let fields = enter(Kind::Vm, "KVM_ENABLE_CAP", words(&[9999, 0, 5, 0]));
    assert_eq!(value(&fields, "cap"), &Value::Hex(9999, 4));
    let fields = enter(Kind::Vm, "KVM_IRQFD", words(&[3, 24, 0xf0, 0, 0, 0, 0, 0]));
    let flags = Value::Flags {
        raw: 0xf0,
        names: Vec::new(),
        rest: 0xf0,
    };
    assert_eq!(value(&fields, "flags"), &flags);
    // A feature that the headers do not have: its bytes are not looked at.
    let data = words(&[16, 1 << 17 | 999, 3, 9]);
    let fields = enter(Kind::Device, "VFIO_DEVICE_FEATURE", data);
    assert!(!fields.iter().any(|field| field.name == "data"));
}

/// A call says how much of its structure there is: what follows is not its own.
#[test]
fn a_structure_ends_where_its_size_says() {
    let data = words(&[12, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let fields = enter(Kind::Iommufd, "IOMMU_IOAS_MAP", data);
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_ref()).collect();
    assert_eq!(names, ["size", "flags", "ioas_id"]);
}

#[test]
fn memory_that_cannot_be_read_is_told() {
    // Only half of the structure is there.
    let fields = enter(Kind::Vm, "KVM_IRQFD", words(&[3, 24]));
    assert_eq!(value(&fields, "gsi"), &Value::Decimal(24));
    assert_eq!(value(&fields, "flags"), &Value::Unreadable(0x1008));
    // Nothing of it is there.
    let fields = enter(Kind::Vm, "KVM_IRQFD", Vec::new());
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_ref()).collect();
    assert_eq!(names, ["arg"]);
    assert_eq!(value(&fields, "arg"), &Value::Unreadable(0x1000));
    // A list of a billion, of which one is there.
    let fields = enter(
        Kind::Vm,
        "KVM_SET_MSRS",
        words(&[1 << 30, 0, 0x10, 0, 1, 0]),
    );
    let Value::List(entries, left_out) = value(&fields, "entries") else {
        panic!("{fields:?}");
    };
    assert_eq!(entries.len() as u64 + left_out, 1 << 30);
    assert_eq!(entries.len(), 2);
    let Value::Record(entry) = &entries[0] else {
        panic!("{entries:?}");
    };
    assert_eq!(value(entry, "index"), &Value::Name(0x10, "MSR_IA32_TSC"));
}

#[test]
fn a_failed_call_shows_what_the_kernel_wrote() {
    let call = Call {
        kind: Kind::Kvm,
        request: number("KVM_GET_MSR_INDEX_LIST"),
        argument: 0x1000,
    };
    let left = calls::leave(&call, -7, &At(0x1000, words(&[2, 0x10, 0x1b])));
    // It lists nothing but how many there are, and with another error not even that.
    assert_eq!(left.len(), 1);
    assert_eq!(value(&left, "nmsrs"), &Value::Decimal(2));
    let memory = At(0x1000, words(&[2, 0x10, 0x1b]));
    assert_eq!(calls::leave(&call, -14, &memory), []);
    assert_eq!(calls::leave(&call, 0, &memory).len(), 2);
    let info = Call {
        kind: Kind::Device,
        request: number("VFIO_DEVICE_GET_INFO"),
        argument: 0x1000,
    };
    let memory = At(0x1000, words(&[24, 2, 9, 5, 0, 0]));
    assert_eq!(calls::leave(&info, -22, &memory), []);
    assert!(calls::leave(&info, 0, &memory).len() >= 4);
}

/// A chain of capabilities that leads back to itself ends.
#[test]
fn a_chain_without_end_ends() {
    let call = Call {
        kind: Kind::Device,
        request: number("VFIO_DEVICE_GET_REGION_INFO"),
        argument: 0x1000,
    };
    // argsz, flags, index, cap_offset, size, offset; a capability whose next one is itself.
    let data = words(&[40, 8, 0, 32, 0, 0, 0, 0, 3 | 1 << 16, 32]);
    let left = calls::leave(&call, 0, &At(0x1000, data));
    let Value::List(chain, 0) = value(&left, "capabilities") else {
        panic!("{left:?}");
    };
    assert!((2..100).contains(&chain.len()), "{}", chain.len());
}

#[test]
fn only_padding_of_zeros_is_quiet() {
    let fields = enter(Kind::Vm, "KVM_IRQFD", words(&[0; 8]));
    let quiet: Vec<&str> = fields
        .iter()
        .filter(|field| field.is_quiet())
        .map(|field| field.name.as_ref())
        .collect();
    assert_eq!(quiet, ["pad"]);
    let fields = enter(Kind::Vm, "KVM_IRQFD", words(&[0, 0, 0, 0, 0, 0, 0, 1]));
    assert!(!fields.iter().any(Field::is_quiet));
}

/// All values, however deep.
fn count(fields: &[Field]) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Record(fields) => count(fields),
            Value::List(values, _) => values.iter().map(of).sum(),
            Value::Bytes(bytes) => 1 + bytes.len() / 64,
            _ => 1,
        }
    }
    fields.iter().map(|field| of(&field.value)).sum()
}

fn try_all(argument: u64, memory: &dyn Memory) {
    // Kinds that share a call's entry decode alike.
    let mut tried = HashSet::new();
    for (kind, request, name) in calls::all() {
        let why = calls::why(kind, request).unwrap().text;
        if !tried.insert((request, why)) {
            continue;
        }
        let call = Call {
            kind,
            request,
            argument,
        };
        let started = Instant::now();
        for fields in [
            calls::enter(&call, memory),
            calls::leave(&call, 0, memory),
            calls::leave(&call, -7, memory),
        ] {
            assert!(count(&fields) < 45_000, "{name}: {}", count(&fields));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
    }
}

#[test]
fn the_largest_lengths_are_cut() {
    for byte in [0xff, 0x01, 0x00] {
        try_all(u64::MAX - 3, &Everywhere(vec![byte; 8]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn no_memory_does_harm(bytes in prop::collection::vec(any::<u8>(), 1..200), at: u64) {
        try_all(at, &At(at, bytes.clone()));
        try_all(at, &Everywhere(bytes));
    }

    #[test]
    fn no_small_numbers_do_harm(bytes in prop::collection::vec(0_u8..40, 16..300), at: u64) {
        try_all(at, &At(at, bytes));
    }
}

/// Calls by which the kernel writes fields, with these fields. By hand from the kernel's source:
/// what is copied to the program. Padding is left out.
const WRITTEN: &str = include_str!("written.txt");

#[test]
fn each_field_goes_its_way() {
    let mut bytes = vec![0; 20_000];
    // The size of VFIO's and iommufd's structures; for KVM, a count.
    bytes[1] = 16;
    let memory = At(0x1000, bytes);
    let mut seen = HashSet::new();
    for (kind, request, name) in calls::all() {
        let call = Call {
            kind,
            request,
            argument: 0x1000,
        };
        let fields = calls::leave(&call, 0, &memory);
        let names: Vec<&str> = fields
            .iter()
            .filter(|field| !field.is_quiet())
            .map(|field| field.name.as_ref())
            .collect();
        if names.is_empty() {
            continue;
        }
        let line = format!("{name} {}", names.join(" "));
        assert!(WRITTEN.lines().any(|own| own == line), "{kind:?}: {line}");
        seen.insert(line);
    }
    let lines = WRITTEN.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        assert!(seen.contains(line), "nothing writes {line}");
    }
}
