use super::*;

#[test]
fn one_bit_of_one_byte_sets_bus_master() {
    assert!(sets_bus_master(4, &[4]) && sets_bus_master(4, &[0xff, 0, 0, 0]));
    assert!(sets_bus_master(3, &[0, 4]) && sets_bus_master(0, &[0, 0, 0, 0, 6, 0, 0, 0]));
    assert!(!sets_bus_master(4, &[3, 4]) && !sets_bus_master(5, &[4]));
    assert!(!sets_bus_master(0, &[4; 4]) && !sets_bus_master(8, &[4; 4]));
    assert!(!sets_bus_master(4, &[]) && !sets_bus_master(u16::MAX, &[4]));
}
