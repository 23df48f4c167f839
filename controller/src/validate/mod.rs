//! Validation: RedisServices and RedisDestinations as written → services that can be served.
//!
//! Names are resolved, texts parsed, precedence between objects settled and the data path chosen.
//! Mistakes and fields without effect are reported to [`Diagnostics`].
//!
//! **Invariant:** no client, no file system. Everything that the objects refer to comes from the
//! [`Inventory`].

pub mod addresses;
pub mod auth;
pub mod certificates;
pub mod claims;
pub mod data_path;
pub mod destination;
pub mod export;
pub mod faults;
pub mod host;
pub mod host_port;
pub mod key_match;
pub mod mentions;
pub mod options;
pub mod policy;
pub mod private_key;
pub mod reach;
pub mod risks;
pub mod route;
pub mod rule_fields;
pub mod rule_tls;
pub mod scope;
pub mod service;
pub mod settings;
pub mod tls;
pub mod user_rules;

use std::sync::Arc;

use redis_mesh_core::wire;

use crate::crd::destination::RedisDestination;
use crate::crd::service::RedisService;
use crate::diagnostic::{Code, Diagnostics, Loaded, Problem};
use crate::exports::Exports;
use crate::inventory::Inventory;

use claims::Claims;
use data_path::{DATA_PATH, annotation};
use destination::{Destinations, RulesPlace};
use host_port::HostPort;
use options::ValidateOptions;
use scope::ServiceClients;
use service::{PathChoice, ValidatedRoute, ValidatedService, ValidatedTarget};
use settings::ValidatedSettings;

/// Validates all objects together. The services are sorted by host, port and scope.
pub fn validate(
    services: &[Arc<Loaded<RedisService>>],
    destinations: &[Arc<Loaded<RedisDestination>>],
    inventory: &Inventory,
    options: &ValidateOptions,
    diagnostics: &mut Diagnostics,
) -> Vec<ValidatedService> {
    let claims = Claims::settle(services, destinations, options, diagnostics);
    let resolver = Destinations::new(destinations, &claims, inventory, options, diagnostics);
    let mut validation = Validation { inventory, options, claims: &claims, resolver, validated: Vec::new() };
    for (index, loaded) in services.iter().enumerate() {
        validation.service(index, loaded, diagnostics);
    }
    for (index, loaded) in destinations.iter().enumerate() {
        validation.destination(index, loaded, diagnostics);
    }
    if inventory.is_whole {
        validation.resolver.report_unused(destinations, &claims, diagnostics);
    }
    let mut validated = validation.validated;
    validated.sort_by(|a, b| (&a.address, &a.clients.scope).cmp(&(&b.address, &b.clients.scope)));
    validated
}

struct Validation<'a> {
    inventory: &'a Inventory,
    options: &'a ValidateOptions,
    claims: &'a Claims,
    resolver: Destinations<'a>,
    validated: Vec<ValidatedService>,
}

impl Validation<'_> {
    /// Validates a RedisService: one service for each port of each host that the object governs.
    fn service(&mut self, index: usize, loaded: &Loaded<RedisService>, diagnostics: &mut Diagnostics) {
        let (inventory, options) = (self.inventory, self.options);
        let subject = scope::subject(loaded);
        let namespace = scope::namespace(loaded);
        let spec = &loaded.object.spec;
        let rules = route::Rules::read(spec, &subject, diagnostics);
        let settings = settings::read(spec, &subject, diagnostics);
        let client_auth = spec.settings.as_ref().and_then(|settings| settings.auth.as_ref()).and_then(|auth| {
            auth::login(auth, &namespace, inventory, &mut diagnostics.at(&subject, "spec.settings.auth"))
        });
        let pinned = data_path::pinned(loaded, &subject, diagnostics);
        let exports = export::read(&spec.export_to, &namespace, &mut diagnostics.at(&subject, "spec.exportTo"));
        for (field, name) in self.claims.of_service(index) {
            let clients = ServiceClients::of(name, &namespace, &exports, inventory);
            let reporter = &mut diagnostics.at(&subject, field);
            for (port, service) in addresses::ports(name, &namespace, inventory, options, reporter) {
                let address = HostPort { host: name.host.clone(), port };
                let place = RulesPlace { namespace: &namespace, clients: &clients, listener: Some(&address) };
                let context = route::RouteContext { subject: &subject, place: &place, listener: &address, field };
                let Some(routes) = rules.resolve(&context, &mut self.resolver, diagnostics) else { continue };
                let reporter = &mut diagnostics.at(&subject, field);
                let addresses = addresses::addresses(&name.host, &namespace, &service, inventory, reporter);
                let mut built = ValidatedService {
                    owner: subject.clone(),
                    address,
                    service,
                    addresses,
                    clients: clients.clone(),
                    path: wire::DataPath::Direct,
                    choice: PathChoice::default(),
                    client_auth: client_auth.clone(),
                    settings: settings.clone(),
                    targets: routes.targets,
                    routes: routes.routes,
                    faults: rules.faults.clone(),
                };
                if !reach::narrow(&mut built, field, diagnostics) {
                    continue;
                }
                data_path::choose_path(&mut built, spec, pinned, options.module, diagnostics);
                risks::report(&built, diagnostics);
                self.validated.push(built);
            }
        }
    }

    /// Validates a RedisDestination whose host no RedisService governs: all commands go to the
    /// host itself.
    fn destination(&mut self, index: usize, loaded: &Loaded<RedisDestination>, diagnostics: &mut Diagnostics) {
        let (inventory, options) = (self.inventory, self.options);
        let subject = scope::subject(loaded);
        if loaded.object.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(DATA_PATH)) {
            let remedy = "write a RedisService for this host to pin its data path";
            let problem = Problem::new(Code::DataPathOnDestination, "has an effect on a RedisService only", remedy);
            diagnostics.add(&subject, annotation(DATA_PATH), problem);
        }
        let Some(name) = self.claims.implicit(index) else { return };
        let namespace = scope::namespace(loaded);
        let ports = addresses::ports(name, &namespace, inventory, options, &mut diagnostics.at(&subject, "spec.host"));
        for (port, service) in ports {
            let reporter = &mut diagnostics.at(&subject, "spec.host");
            let address = HostPort { host: name.host.clone(), port };
            let clients = ServiceClients::of(name, &namespace, &Exports::default(), inventory);
            let place = RulesPlace { namespace: &namespace, clients: &clients, listener: None };
            let resolved = self.resolver.resolve(name, Some(port), &place, reporter);
            let Some(destination) = resolved else { continue };
            let addresses = addresses::addresses(&name.host, &namespace, &service, inventory, reporter);
            let mut built = ValidatedService {
                owner: subject.clone(),
                address,
                addresses,
                service,
                clients,
                path: wire::DataPath::Direct,
                choice: PathChoice::default(),
                client_auth: None,
                settings: ValidatedSettings::default(),
                targets: vec![ValidatedTarget { destination, mirrors: Vec::new() }],
                routes: vec![ValidatedRoute::to_the_host()],
                faults: Vec::new(),
            };
            if !reach::narrow(&mut built, "spec.exportTo", diagnostics) {
                continue;
            }
            data_path::choose_implicit_path(&mut built, options.module);
            risks::report(&built, diagnostics);
            self.validated.push(built);
        }
    }
}
