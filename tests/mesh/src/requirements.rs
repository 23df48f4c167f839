//! The programs and permissions that a mesh needs.

use anyhow::{Result, bail};
use redis_mesh_tests::wheel;

/// The programs, each with the way to install it.
const PROGRAMS: &[(&str, &str)] = &[
    ("go", "install Go 1.26 or later: https://go.dev/doc/install"),
    ("ip", "apt-get install iproute2"),
    ("iptables", "apt-get install iptables"),
    ("iptables-restore", "apt-get install iptables"),
    ("mount", "apt-get install mount"),
    ("python3", "apt-get install python3 python3-pip"),
];

/// Fails with a list of all that is missing and how to install it.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        missing.push("root, for network namespaces and iptables in them: run it with sudo -E, or in a container with --privileged".into());
    }
    for (program, remedy) in PROGRAMS {
        if wheel::on_path(program).is_none() {
            missing.push(format!("{program}: {remedy}"));
        }
    }
    if !missing.is_empty() {
        bail!("the mesh needs\n  {}", missing.join("\n  "));
    }
    Ok(())
}
