//! The outcome of a scenario: times, sizes and named checks; written as `result.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Scenario;
use crate::material::Kernel;

/// A check and what it saw.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Whether what was seen is what was expected.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    fn print(&self, name: &str) {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        println!("  {mark} {name:<16} {}", self.detail);
    }
}

/// Everything a scenario found out.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The scenario that was played.
    pub scenario: Scenario,
    /// `uname -r` of the kernel.
    pub release: String,
    /// Moments and lengths in milliseconds of host time.
    pub times_ms: BTreeMap<String, f64>,
    /// Sizes in bytes.
    pub sizes: BTreeMap<String, u64>,
    /// The checks by name.
    pub checks: BTreeMap<String, Check>,
    #[serde(skip)]
    order: Vec<String>,
    /// Whether each check is printed as it is made.
    #[serde(skip)]
    pub aloud: bool,
}

impl Outcome {
    /// Starts an empty outcome.
    pub fn new(scenario: &Scenario, kernel: &Kernel) -> Self {
        Self {
            scenario: scenario.clone(),
            release: kernel.release.clone(),
            times_ms: BTreeMap::new(),
            sizes: BTreeMap::new(),
            checks: BTreeMap::new(),
            order: Vec::new(),
            aloud: false,
        }
    }

    /// Records a check.
    pub fn check(&mut self, name: &str, ok: bool, detail: impl Into<String>) {
        let detail = detail.into();
        let check = Check { ok, detail };
        if self.aloud {
            check.print(name);
        }
        self.order.push(name.to_owned());
        self.checks.insert(name.to_owned(), check);
    }

    /// Records a check that an error makes fail.
    pub fn check_result(&mut self, name: &str, result: Result<String>) -> bool {
        let ok = result.is_ok();
        self.check(
            name,
            ok,
            result.unwrap_or_else(|error| format!("{error:#}")),
        );
        ok
    }

    /// Records a time.
    pub fn time(&mut self, name: &str, milliseconds: f64) {
        self.times_ms
            .insert(name.to_owned(), (milliseconds * 1000.0).round() / 1000.0);
    }

    /// Records a size.
    pub fn size(&mut self, name: &str, bytes: u64) {
        self.sizes.insert(name.to_owned(), bytes);
    }

    /// Tells whether all checks passed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.values().all(|check| check.ok)
    }

    /// Returns the checks in the order in which they were made.
    pub fn in_order(&self) -> impl Iterator<Item = (&str, &Check)> {
        self.order
            .iter()
            .filter_map(|name| Some((name.as_str(), self.checks.get(name)?)))
    }

    /// Prints the checks, one line each.
    pub fn print(&self) {
        for (name, check) in self.in_order() {
            check.print(name);
        }
    }

    /// Writes `result.json`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }
}
