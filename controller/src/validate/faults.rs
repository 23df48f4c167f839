//! Faults, and shares of commands.

use std::time::Duration;

use redis_mesh_core::{command, wire};

use crate::crd::service::{FaultSpec, FaultType, Percent};
use crate::diagnostic::{Code, FieldReporter, did_you_mean};
use crate::quantity;

/// Reads a percentage as parts per million; without one, all.
pub fn share(percent: Option<&Percent>, field: &mut FieldReporter<'_>) -> u32 {
    match percent.map(|percent| quantity::per_million(percent.value)) {
        None => 1_000_000,
        Some(Ok(share)) => share,
        Some(Err(problem)) => {
            field.add(problem);
            0
        }
    }
}

/// Reads a list of faults.
pub fn faults(specs: &[FaultSpec], field: &mut FieldReporter<'_>) -> Vec<wire::Fault> {
    let read = |(index, spec)| fault(spec, &mut field.at(format_args!("[{index}]")));
    let faults: Vec<wire::Fault> = specs.iter().enumerate().map(read).collect();
    report_excess(&faults, field);
    faults
}

fn fault(spec: &FaultSpec, field: &mut FieldReporter<'_>) -> wire::Fault {
    let kind = match spec.kind {
        Some(FaultType::Error) => wire::FaultKind::Error,
        Some(FaultType::Delay) | None => wire::FaultKind::Delay,
    };
    let delay = delay(spec, kind, &mut field.at(".delay"));
    for (index, command) in spec.commands.iter().enumerate().filter(|(_, command)| !command.is_empty()) {
        check_command(command, &mut field.at(format_args!(".commands[{index}]")));
    }
    wire::Fault {
        kind,
        per_million: share(spec.percentage.as_ref(), &mut field.at(".percentage.value")),
        delay_ms: delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)).unwrap_or_default(),
        commands: spec.commands.iter().map(|command| command.to_ascii_uppercase()).collect(),
    }
}

fn delay(spec: &FaultSpec, kind: wire::FaultKind, field: &mut FieldReporter<'_>) -> Option<Duration> {
    let delay = match spec.delay.as_deref().map(quantity::duration) {
        Some(Ok(delay)) => Some(delay),
        Some(Err(problem)) => {
            field.add(problem);
            return None;
        }
        None => None,
    };
    if kind == wire::FaultKind::Delay && delay.is_none_or(|delay| delay.is_zero()) {
        field.report(Code::MissingDelay, "a fault of type DELAY needs one", "write a time, such as 200ms");
    }
    if delay.is_some_and(|delay| !delay.is_zero() && delay.as_millis() == 0) {
        let message = "is shorter than 1ms, the shortest time that can be waited";
        field.report(Code::DurationTooShort, message, "write a longer time");
    }
    delay
}

fn check_command(command: &str, field: &mut FieldReporter<'_>) {
    if command.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let message = format!("`{}` is not the name of a command", command.trim());
        field.report(Code::InvalidCommand, message, "a name is one word");
    } else if command::lookup(command.as_bytes()).is_none() {
        let known = command::all().iter().map(|known| known.name);
        let remedy = did_you_mean(&command.to_ascii_lowercase(), known);
        let remedy = remedy.unwrap_or_else(|| "correct it, unless a module of the server has it".to_owned());
        let message = format!("`{command}` is no command that Redis or Valkey is known to have");
        field.report(Code::UnknownCommand, message, remedy);
    }
}

/// Reports percentages that add up to more than 100 for a command.
fn report_excess(faults: &[wire::Fault], field: &mut FieldReporter<'_>) {
    let total = |applies: &dyn Fn(&wire::Fault) -> bool| -> u64 {
        faults.iter().filter(|fault| applies(fault)).map(|fault| u64::from(fault.per_million)).sum()
    };
    let mut commands: Vec<&String> = faults.iter().flat_map(|fault| &fault.commands).collect();
    commands.sort();
    commands.dedup();
    let over = if total(&|fault| fault.commands.is_empty()) > 1_000_000 {
        Some("all commands".to_owned())
    } else {
        commands
            .iter()
            .find(|command| total(&|fault| fault.commands.is_empty() || fault.commands.contains(command)) > 1_000_000)
            .map(|command| format!("`{command}`"))
    };
    if let Some(over) = over {
        let message = format!(
            "the percentages for {over} add up to more than 100; the last faults are hit less often than they say"
        );
        field.report(Code::FaultsAboveAll, message, "lower them");
    }
}
