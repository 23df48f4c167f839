//! The installation: the chart, the kustomize base, the image, the dashboard.

mod chart;
mod dashboard;
mod golden;
mod image;
mod kustomize;
mod yaml;
