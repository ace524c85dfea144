//! What a node asks of a host, and what a host has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An amount of each resource. CPUs are in thousandths, memory in bytes, named resources in thousandths of their unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a CPU; a slot of a worker is 1,000.
    pub cpu_milli: u64,
    /// Bytes of memory; 0 asks for none in particular.
    pub memory: u64,
    /// Named resources such as `gpu` or `licence`, in thousandths.
    pub named: BTreeMap<String, u64>,
}

/// Which of `cpus` and `memory` people mean by a name that would be a resource of its own.
pub fn meant_resource(name: &str) -> Option<&'static str> {
    match name.to_lowercase().as_str() {
        "cpu" | "cpus" | "core" | "cores" | "vcpu" | "vcpus" => Some("cpus"),
        "mem" | "memory" | "ram" => Some("memory"),
        _ => None,
    }
}

impl Default for Resources {
    /// One CPU.
    fn default() -> Self {
        Self {
            cpu_milli: 1000,
            memory: 0,
            named: BTreeMap::new(),
        }
    }
}

impl Resources {
    /// Nothing at all.
    pub fn none() -> Self {
        Self {
            cpu_milli: 0,
            memory: 0,
            named: BTreeMap::new(),
        }
    }

    /// Whether `self` can be taken out of `free`.
    pub fn fits(&self, free: &Resources) -> bool {
        self.cpu_milli <= free.cpu_milli
            && self.memory <= free.memory
            && self
                .named
                .iter()
                .all(|(name, amount)| amount <= free.named.get(name).unwrap_or(&0))
    }

    /// Takes `other` out of `self`.
    ///
    /// # Panics
    /// When it does not fit: the caller asks [`Resources::fits`] first.
    pub fn take(&mut self, other: &Resources) {
        let sub = |a: u64, b: u64| {
            a.checked_sub(b)
                .expect("resources are only taken where they fit")
        };
        self.cpu_milli = sub(self.cpu_milli, other.cpu_milli);
        self.memory = sub(self.memory, other.memory);
        for (name, amount) in &other.named {
            let free = self.named.entry(name.clone()).or_default();
            *free = sub(*free, *amount);
        }
    }

    /// Gives `other` back to `self`.
    pub fn give(&mut self, other: &Resources) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        for (name, amount) in &other.named {
            *self.named.entry(name.clone()).or_default() += amount;
        }
    }

    /// The larger amount of each resource: what merged nodes ask for.
    pub fn max(&self, other: &Resources) -> Resources {
        let mut named = self.named.clone();
        for (name, amount) in &other.named {
            let mine = named.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
        Resources {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory: self.memory.max(other.memory),
            named,
        }
    }
}
