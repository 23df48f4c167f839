//! Random changes.

use std::time::Duration;

use anyhow::Result;

use super::behaviour::{HOSTS, LOCKED};
use super::dice::Dice;
use super::objects::{Asked, Leads, Rules};
use super::world::{LOGINS, World};

/// What draws changes, and makes them.
#[derive(Debug)]
pub struct Fate {
    dice: Dice,
    passwords: usize,
    /// For how many changes the controller stays away; none: it runs.
    away: Option<usize>,
}

impl Fate {
    /// The changes of a seed.
    pub fn new(seed: u64) -> Fate {
        Fate { dice: Dice::new(seed), passwords: 0, away: None }
    }

    /// The numbers of this run.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    fn password(&mut self) -> String {
        self.passwords += 1;
        format!("p{}", self.passwords)
    }

    fn rules(&mut self, name: String) -> Rules {
        let asked = match self.dice.below(5) {
            0 => Asked::Nothing,
            1 | 2 => Asked::Secret,
            _ => Asked::Plain(self.password()),
        };
        let target = self.dice.below(HOSTS.len());
        let leads = match self.dice.below(4) {
            0 | 1 => Leads::Home,
            2 => Leads::To(target),
            _ => Leads::Split(target),
        };
        Rules { name, asked, leads }
    }

    /// Makes one change. Returns what it was.
    pub fn change(&mut self, world: &mut World<'_>) -> Result<String> {
        let said = self.one(world)?;
        match self.away {
            Some(0) => {
                world.launch()?;
                self.away = None;
                return Ok(format!("{said}; the controller is back"));
            }
            Some(left) => self.away = Some(left - 1),
            None => {}
        }
        Ok(said)
    }

    fn one(&mut self, world: &mut World<'_>) -> Result<String> {
        let host = self.dice.below(HOSTS.len());
        let name = HOSTS[host];
        match self.dice.below(100) {
            0..40 => self.of_rules(world, host),
            40..55 => {
                let password = self.password();
                match world.objects.secrets[host].is_some() && self.dice.chance(40) {
                    true => world.set_secret(host, None)?,
                    false => world.set_secret(host, Some(password))?,
                }
                Ok(format!("the Secret of {name}'s clients: {:?}", world.objects.secrets[host]))
            }
            55..65 => {
                let login = (world.objects.login.is_none() || self.dice.chance(60)).then(|| self.dice.one_of(&LOGINS));
                world.set_login(login.map(str::to_string))?;
                Ok(format!("the Secret of the login: {login:?}"))
            }
            65..71 => {
                let exists = !world.objects.has_destination;
                world.set_destination(exists)?;
                Ok(format!("the RedisDestination of {}: {exists}", HOSTS[LOCKED]))
            }
            71..87 => self.of_services(world, host),
            87..97 => {
                if self.away.is_some() {
                    return Ok("the controller stays away".into());
                }
                world.controller()?.kill();
                let changes = self.dice.below(4);
                self.away = Some(changes);
                Ok(format!("the controller is killed for {changes} changes"))
            }
            _ => {
                let time = Duration::from_millis(self.dice.below(1500) as u64);
                world.without_api(time)?;
                Ok(format!("the API server was away for {time:?} and its start"))
            }
        }
    }

    fn of_rules(&mut self, world: &mut World<'_>, host: usize) -> Result<String> {
        let before = world.objects.rules[host].clone();
        let name = HOSTS[host];
        let Some(before) = before else {
            let rules = self.rules(format!("{name}-a"));
            world.set_rules(host, Some(rules.clone()))?;
            return Ok(format!("created {rules:?}"));
        };
        let other = if before.name.ends_with("-a") { format!("{name}-b") } else { format!("{name}-a") };
        match self.dice.below(10) {
            0..5 => {
                let rules = self.rules(before.name);
                world.set_rules(host, Some(rules.clone()))?;
                Ok(format!("edited {rules:?}"))
            }
            5 | 6 => {
                world.set_rules(host, None)?;
                Ok(format!("deleted {}", before.name))
            }
            7 | 8 => {
                let rules = if self.dice.chance(50) { self.rules(other) } else { Rules { name: other, ..before } };
                world.rename(host, rules.clone())?;
                Ok(format!("renamed to {rules:?}"))
            }
            _ => {
                let rules = self.rules(other);
                world.set_rules(host, None)?;
                world.set_rules(host, Some(rules.clone()))?;
                Ok(format!("deleted and created {rules:?}"))
            }
        }
    }

    fn of_services(&mut self, world: &mut World<'_>, host: usize) -> Result<String> {
        let name = HOSTS[host];
        let fresh = |world: &World<'_>, dice: &mut Dice| {
            let free: Vec<u8> =
                (120..128).filter(|address| !world.objects.services.contains(&Some(*address))).collect();
            dice.one_of(&free)
        };
        let Some(address) = world.objects.services[host] else {
            let address = fresh(world, &mut self.dice);
            world.create_service(host, address)?;
            return Ok(format!("the Service {name} is created at {address}"));
        };
        let other = (host + 1) % HOSTS.len();
        match (self.dice.below(5), world.objects.services[other]) {
            (0, _) => {
                world.delete_service(host)?;
                Ok(format!("the Service {name} is deleted"))
            }
            (1, Some(others)) => {
                // Sidecars know listeners by addresses: while no controller moves the rules, they hold for
                // whoever has the address.
                self.bring_back(world)?;
                world.delete_service(host)?;
                world.delete_service(other)?;
                world.create_service(host, others)?;
                world.create_service(other, address)?;
                Ok(format!("the Services {name} and {} exchange {address} and {others}", HOSTS[other]))
            }
            (2, _) => {
                world.delete_service(host)?;
                world.create_service(host, address)?;
                Ok(format!("the Service {name} is created again at {address}"))
            }
            _ => {
                let free = fresh(world, &mut self.dice);
                world.delete_service(host)?;
                world.create_service(host, free)?;
                Ok(format!("the Service {name} is created again at {free} instead of {address}"))
            }
        }
    }

    /// Has the controller run, if it is away.
    pub fn bring_back(&mut self, world: &mut World<'_>) -> Result<()> {
        self.away.take().map_or(Ok(()), |_| world.launch())
    }

    /// Gives every object what it names.
    pub fn heal(&mut self, world: &mut World<'_>) -> Result<()> {
        for host in 0..HOSTS.len() {
            if world.objects.services[host].is_none() {
                world.create_service(host, 128 + host as u8)?;
            }
            if world.objects.secrets[host].is_none() {
                let password = self.password();
                world.set_secret(host, Some(password))?;
            }
        }
        if world.objects.login.is_none() {
            world.set_login(Some(LOGINS[0].into()))?;
        }
        Ok(())
    }
}
