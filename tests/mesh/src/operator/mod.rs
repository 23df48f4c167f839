//! What turns RedisServices and RedisDestinations into Istio's objects: a controller in the cluster, or a person who runs
//! `redis-mesh render istio | kubectl apply`.

pub mod controller;
pub mod rendered;

use anyhow::Result;

pub use controller::Controller;
pub use rendered::Rendered;

use crate::control_plane::ControlPlane;

/// One of them.
#[derive(Debug)]
pub enum Operator {
    /// A person.
    Rendered(Rendered),
    /// The controller.
    Controller(Controller),
}

impl Operator {
    /// To be called after every change of a manifest: the person renders and applies; the controller sees by itself.
    pub fn sync(&mut self, plane: &ControlPlane) -> Result<()> {
        match self {
            Operator::Rendered(rendered) => rendered.sync(plane),
            Operator::Controller(_) => Ok(()),
        }
    }
}
