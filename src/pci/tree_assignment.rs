//! Gives addresses to a whole tree: BARs on the root bus, root ports, and BARs behind them.

use crate::Bdf;
use crate::bar::Bars;
use crate::bar_assignment::{AssignError, BehindPort, Windows, assign_with_ports};
use crate::bridge_windows::Reserve;
use crate::port_setup::PortSetup;

/// A function of the tree.
pub struct TreeFunction<'a> {
    /// The function's address, for messages.
    pub name: Bdf,
    /// The root port above the function; `None` on the root bus.
    pub port: Option<Bdf>,
    /// The BARs.
    pub bars: &'a mut Bars,
}

/// Gives each BAR its address. Returns the numbers and windows of the ports, in their order. A
/// function behind a port that is not among `ports` gets no addresses.
///
/// # Errors
/// A BAR or a window does not fit. No register has changed then.
pub fn assign_tree(
    functions: Vec<TreeFunction<'_>>,
    ports: &[(Bdf, Reserve)],
    windows: &Windows,
) -> Result<Vec<PortSetup>, AssignError> {
    let mut on_root = Vec::new();
    let ports = ports.iter().map(|(port, reserve)| BehindPort {
        port: *port,
        functions: Vec::new(),
        reserve: *reserve,
    });
    let mut ports: Vec<_> = ports.collect();
    for function in functions {
        let list = match function.port {
            None => Some(&mut on_root),
            Some(above) => ports
                .iter_mut()
                .find(|port| port.port == above)
                .map(|port| &mut port.functions),
        };
        if let Some(list) = list {
            list.push((function.name, function.bars));
        }
    }
    assign_with_ports(&mut on_root, &mut ports, windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Range;
    use crate::bar::{Bar, BarKind};

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    fn bars() -> Bars {
        let prefetchable = false;
        let bar = Bar {
            kind: BarKind::Memory32 { prefetchable },
            size: 1 << 20,
        };
        Bars::new([Some(bar), None, None, None, None, None]).unwrap()
    }

    #[test]
    fn each_function_is_in_the_windows_of_its_port() {
        let windows = Windows {
            mmio32: Range {
                start: 0xc000_0000,
                size: 1 << 28,
            },
            mmio64: Range { start: 0, size: 0 },
            io: Range { start: 0, size: 0 },
        };
        let ports = ["00:04.0", "00:05.0", "00:06.0"].map(|port| (bdf(port), Reserve::default()));
        let above = [None, Some(ports[1].0), Some(ports[0].0), Some(ports[1].0)];
        let mut all = [bars(), bars(), bars(), bars()];
        let functions = all.iter_mut().zip(above).map(|(bars, port)| TreeFunction {
            name: bdf("00:00.0"),
            port,
            bars,
        });
        let setups = assign_tree(functions.collect(), &ports, &windows).unwrap();
        assert_eq!(
            setups.iter().map(|s| s.secondary).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        let windows: Vec<_> = setups.iter().map(|setup| setup.mem32).collect();
        assert_eq!(windows[2], None);
        for (bars, port) in all.iter().zip([None, Some(1), Some(0), Some(1)]) {
            let at = bars.address(0).unwrap();
            for (index, window) in windows.iter().enumerate() {
                let inside = window.is_some_and(|window| window.contains(at, 1 << 20));
                assert_eq!(inside, port == Some(index));
            }
        }
    }
}
