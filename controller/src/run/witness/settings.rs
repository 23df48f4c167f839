//! Which proxy is asked, and what happens while it doesn't answer.

use clap::ValueEnum;

/// What happens while the witness doesn't answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WitnessPolicy {
    /// Nothing is applied.
    #[value(name = "Require")]
    Require,
    /// Changes are applied, and statuses say that nobody has looked whether a proxy took them.
    #[default]
    #[value(name = "Prefer")]
    Prefer,
}

/// The witness of a mesh.
#[derive(Clone, Debug, Default)]
pub struct WitnessSettings {
    /// The base URLs of the admin interfaces of its Envoys, one for each revision of Istio that is in use;
    /// none: there is no witness.
    pub urls: Vec<String>,
    /// What happens while any of them doesn't answer.
    pub policy: WitnessPolicy,
}
