//! The operator, which turns RedisServices and RedisDestinations into Istio's objects: the
//! controller, or a person who runs `redis-mesh render istio | kubectl apply`.

pub mod controller;
pub mod rendered;

use anyhow::Result;

pub use controller::Controller;
pub use rendered::Rendered;

use crate::control_plane::ControlPlane;

/// An operator.
#[derive(Debug)]
pub enum Operator {
    /// A person.
    Rendered(Rendered),
    /// The controller.
    Controller(Controller),
}

impl Operator {
    /// Reacts to a change of manifests: a person renders and applies, the controller watches by
    /// itself.
    pub fn sync(&mut self, plane: &ControlPlane) -> Result<()> {
        match self {
            Operator::Rendered(rendered) => rendered.sync(plane),
            Operator::Controller(_) => Ok(()),
        }
    }
}
