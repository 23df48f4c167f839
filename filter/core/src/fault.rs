//! Fault injection: delays and errors in the place of replies.

use crate::random::Random;
use crate::wire;
use std::time::Duration;

/// The effect of a fault on a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The command is answered with an error and goes nowhere.
    pub error: bool,
    /// Time before the command is sent or the error is answered.
    pub delay: Duration,
}

/// The faults of a host or of a route.
#[derive(Debug, Default)]
pub struct Faults(Vec<CompiledFault>);

#[derive(Debug)]
struct CompiledFault {
    injected: Injected,
    per_million: u32,
    /// Names of the commands that the fault applies to, in lower case; empty: all commands.
    commands: Vec<Box<[u8]>>,
}

impl Faults {
    /// Compiles faults.
    ///
    /// # Errors
    /// The field that is wrong, and the reason.
    pub fn new(faults: &[wire::Fault]) -> Result<Faults, String> {
        let mut out = Vec::with_capacity(faults.len());
        for (i, fault) in faults.iter().enumerate() {
            if fault.per_million > 1_000_000 {
                return Err(format!("faults[{i}].perMillion: {} is more than 1000000", fault.per_million));
            }
            if fault.kind == wire::FaultKind::Delay && fault.delay_ms == 0 {
                return Err(format!("faults[{i}].delayMs: a delay fault needs a delay"));
            }
            out.push(CompiledFault {
                injected: Injected {
                    error: fault.kind == wire::FaultKind::Error,
                    delay: Duration::from_millis(fault.delay_ms),
                },
                per_million: fault.per_million,
                commands: fault.commands.iter().map(|c| c.to_ascii_lowercase().into_bytes().into()).collect(),
            });
        }
        Ok(Faults(out))
    }

    /// True if no fault is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Draws the fault of a command, named in any case. One number is drawn for all faults, whose
    /// shares add up, as in Envoy's redis_proxy: two faults of 50 % together hit every command.
    pub fn draw(&self, name: &[u8], random: &mut Random) -> Option<Injected> {
        let mut drawn = None;
        let mut sum = 0u32;
        for fault in &self.0 {
            if !fault.commands.is_empty() && !fault.commands.iter().any(|c| name.eq_ignore_ascii_case(c)) {
                continue;
            }
            sum = sum.saturating_add(fault.per_million);
            if *drawn.get_or_insert_with(|| random.below(1_000_000)) < sum {
                return Some(fault.injected);
            }
        }
        None
    }
}

/// The faults of a host, together with those of its routes.
#[derive(Debug, Default)]
pub struct HostFaults {
    of_host: Faults,
    /// Faults of those routes that have some, by the index of the route, ascending.
    of_routes: Vec<(u32, Faults)>,
    delays: bool,
}

impl HostFaults {
    /// Compiles the faults of a host.
    ///
    /// # Errors
    /// The field that is wrong, and the reason.
    pub fn new(host: &wire::Host) -> Result<HostFaults, String> {
        let mut of_routes = Vec::new();
        for (i, route) in host.routes.iter().enumerate().filter(|(_, route)| !route.faults.is_empty()) {
            of_routes.push((i as u32, Faults::new(&route.faults).map_err(|e| format!("routes[{i}].{e}"))?));
        }
        let of_host = Faults::new(&host.faults)?;
        let is_delayed = |faults: &Faults| faults.0.iter().any(|fault| !fault.injected.delay.is_zero());
        let delays = is_delayed(&of_host) || of_routes.iter().any(|(_, faults)| is_delayed(faults));
        Ok(HostFaults { of_host, of_routes, delays })
    }

    /// True if neither the host nor a route has a fault.
    pub fn is_empty(&self) -> bool {
        self.of_host.is_empty() && self.of_routes.is_empty()
    }

    /// True if a route has a fault.
    pub fn has_routes(&self) -> bool {
        !self.of_routes.is_empty()
    }

    /// True if a fault delays commands.
    pub fn delays(&self) -> bool {
        self.delays
    }

    /// Draws the fault of a command, named in any case: that of its route, else that of the host.
    pub fn draw(&self, name: &[u8], route: Option<u32>, random: &mut Random) -> Option<Injected> {
        let of_route = route.and_then(|route| {
            let at = self.of_routes.binary_search_by_key(&route, |(route, _)| *route).ok()?;
            self.of_routes.get(at)?.1.draw(name, random)
        });
        of_route.or_else(|| self.of_host.draw(name, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FaultKind;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn fault(kind: FaultKind, per_million: u32, delay_ms: u64, commands: &[&str]) -> wire::Fault {
        wire::Fault { kind, per_million, delay_ms, commands: commands.iter().map(|c| c.to_string()).collect() }
    }

    #[test]
    fn shares_add_up() {
        let faults =
            Faults::new(&[fault(FaultKind::Error, 500_000, 0, &["GET"]), fault(FaultKind::Delay, 500_000, 20, &[])])
                .unwrap();
        let mut random = Random::new([3; 32]);
        let drawn: Vec<_> = (0..2000).map(|_| faults.draw(b"gEt", &mut random).unwrap()).collect();
        let errors = drawn.iter().filter(|i| i.error).count();
        assert!((900..1100).contains(&errors), "{errors}");
        let others = (0..2000).filter(|_| faults.draw(b"SET", &mut random).is_some()).count();
        assert!((900..1100).contains(&others), "{others}");
    }

    #[test]
    fn mistakes() {
        assert!(Faults::new(&[fault(FaultKind::Delay, 1, 0, &[])]).unwrap_err().contains("faults[0].delayMs"));
        assert!(Faults::new(&[fault(FaultKind::Error, 1_000_001, 0, &[])]).unwrap_err().contains("perMillion"));
    }
}
