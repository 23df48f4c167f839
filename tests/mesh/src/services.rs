//! The services of a cluster, as kube-proxy and a DNS server see them.

use std::fmt::Write;
use std::net::IpAddr;

use serde_json::Value;

use crate::dns::Zone;

/// Every service with its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(Vec<Service>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    name: String,
    namespace: String,
    /// The cluster IP; `None` for a headless service.
    cluster_ip: Option<IpAddr>,
    /// Port numbers, each with its endpoints.
    ports: Vec<(u64, Vec<(IpAddr, u64)>)>,
    addresses: Vec<IpAddr>,
}

impl Services {
    /// Reads the lists of Services and EndpointSlices.
    pub fn of(services: &[Value], slices: &[Value]) -> Services {
        Services(services.iter().map(|service| Service::of(service, slices)).collect())
    }

    /// Returns kube-proxy's rules in the format of iptables-restore.
    pub fn nat(&self) -> String {
        let mut out = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n".to_string();
        for service in &self.0 {
            let Some(ip) = service.cluster_ip else { continue };
            for (port, endpoints) in &service.ports {
                for (i, (to, to_port)) in endpoints.iter().enumerate() {
                    let left = endpoints.len() - i;
                    let chance = match left {
                        1 => String::new(),
                        _ => format!("-m statistic --mode random --probability {:.6} ", 1.0 / left as f64),
                    };
                    for chain in ["PREROUTING", "OUTPUT"] {
                        let _ = writeln!(
                            out,
                            "-A {chain} -d {ip}/32 -p tcp -m tcp --dport {port} {chance}-j DNAT --to-destination {to}:{to_port}"
                        );
                    }
                    // An endpoint that asks its own service.
                    let _ = writeln!(out, "-A POSTROUTING -s {to}/32 -d {to}/32 -j MASQUERADE");
                }
            }
        }
        out + "COMMIT\n"
    }

    /// Returns the names of the services with their addresses.
    pub fn zone(&self) -> Zone {
        let names = self.0.iter().map(|service| {
            let addresses = match service.cluster_ip {
                Some(ip) => vec![ip],
                None => service.addresses.clone(),
            };
            (format!("{}.{}.svc.cluster.local", service.name, service.namespace), addresses)
        });
        names.collect()
    }
}

impl Service {
    fn of(service: &Value, slices: &[Value]) -> Service {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (name, namespace) = (text(&service["metadata"]["name"]), text(&service["metadata"]["namespace"]));
        let own: Vec<&Value> = slices
            .iter()
            .filter(|slice| slice["metadata"]["namespace"] == namespace.as_str())
            .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name.as_str())
            .collect();
        let ports = service["spec"]["ports"].as_array().into_iter().flatten().map(|port| {
            let endpoints = own.iter().flat_map(|slice| {
                let same = |p: &&Value| text(&p["name"]) == text(&port["name"]);
                let number =
                    slice["ports"].as_array().into_iter().flatten().find(same).and_then(|p| p["port"].as_u64());
                number.into_iter().flat_map(|number| ready(slice).into_iter().map(move |ip| (ip, number)))
            });
            (port["port"].as_u64().unwrap_or_default(), endpoints.collect())
        });
        Service {
            ports: ports.collect(),
            cluster_ip: service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()),
            addresses: own.iter().flat_map(|slice| ready(slice)).collect(),
            name,
            namespace,
        }
    }
}

/// Returns the addresses of a slice's endpoints, except those that report that they aren't ready.
fn ready(slice: &Value) -> Vec<IpAddr> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}
