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
    /// The base URL of the admin interface of its Envoy; none: there is no witness.
    pub url: Option<String>,
    /// What happens while it doesn't answer.
    pub policy: WitnessPolicy,
}
