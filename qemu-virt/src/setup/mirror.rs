//! Where this machine gets Debian packages from.
//!
//! The mirror is read from the machine's own apt settings (sources.list(5): one-line `deb` entries
//! and deb822 `URIs:` stanzas), because it is the one that works from here.

use std::path::Path;

use anyhow::{Context, Result};

use crate::run;

/// The Debian archive as seen from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The archive's base address, `…/debian`.
    pub main: String,
    /// The security archive's base address, if the machine uses one.
    pub security: Option<String>,
}

/// Finds the mirror: `KDRAW_DEBIAN_MIRROR`, or the machine's apt settings.
pub fn find() -> Result<Mirror> {
    if let Ok(main) = std::env::var("KDRAW_DEBIAN_MIRROR") {
        return Ok(Mirror {
            main: trimmed(&main),
            security: None,
        });
    }
    let mut sources = Vec::new();
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    files.extend(run::entries(Path::new("/etc/apt/sources.list.d")).unwrap_or_default());
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(one_line(&text)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    choose(&sources).context(
        "no Debian archive among this machine's apt sources; name one: \
         KDRAW_DEBIAN_MIRROR=http://…/debian",
    )
}

/// One source of packages: its address and its suites.
type Source = (String, Vec<String>);

/// Picks the Debian archive and its security archive among all sources.
fn choose(sources: &[Source]) -> Option<Mirror> {
    const SUITES: [&str; 6] = ["bookworm", "trixie", "forky", "sid", "stable", "oldstable"];
    let has = |suites: &[String], suffix: &str| {
        suites.iter().any(|suite| {
            SUITES
                .iter()
                .any(|name| *suite == format!("{name}{suffix}"))
        })
    };
    let find = |suffix: &str| {
        sources
            .iter()
            .find(|(_, suites)| has(suites, suffix))
            .map(|(address, _)| trimmed(address))
    };
    Some(Mirror {
        main: find("")?,
        security: find("-security"),
    })
}

/// Reads `deb [options] ADDRESS SUITE component…` lines.
fn one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(address), Some(suite)) = (words.next(), words.next()) {
            sources.push((address.to_owned(), vec![suite.to_owned()]));
        }
    }
    sources
}

/// Reads stanzas with `Types:`, `URIs:` and `Suites:`.
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let mut words = Vec::new();
            let mut inside = false;
            for line in stanza {
                match line.split_once(':') {
                    _ if line.starts_with([' ', '\t']) => {
                        if inside {
                            words.extend(line.split_whitespace());
                        }
                    }
                    Some((key, value)) => {
                        inside = key.eq_ignore_ascii_case(name);
                        if inside {
                            words.extend(value.split_whitespace());
                        }
                    }
                    None => inside = false,
                }
            }
            words
        };
        let disabled = field("Enabled").first().is_some_and(|word| *word == "no");
        if disabled || !field("Types").contains(&"deb") {
            continue;
        }
        let suites: Vec<String> = field("Suites").into_iter().map(str::to_owned).collect();
        for address in field("URIs") {
            sources.push((address.to_owned(), suites.clone()));
        }
    }
    sources
}

fn trimmed(address: &str) -> String {
    address.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_in_both_forms_of_apt_settings() {
        let want = Mirror {
            main: "http://mirror.example/debian".to_owned(),
            security: Some("https://sec.example/debian-security".to_owned()),
        };
        let lines = "# deb http://no.example/debian bookworm main\n\
                     deb https://packages.example/apt tool-bookworm main\n\
                     deb-src http://src.example/debian bookworm main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main\n\
                     deb https://sec.example/debian-security bookworm-security main\n";
        assert_eq!(choose(&one_line(lines)).as_ref(), Some(&want));

        let stanzas = "Types: deb\nURIs: https://node.example/node\nSuites: nodistro\n\n\
                       Types: deb\nURIs: http://off.example/debian\nSuites: trixie\nEnabled: no\n\n\
                       Types: deb deb-src\n# a note\nURIs: http://mirror.example/debian\n\
                       Suites: trixie\n trixie-updates\nComponents: main\n\n\
                       Types: deb\nURIs: https://sec.example/debian-security/\n\
                       Suites: trixie-security\n";
        assert_eq!(choose(&deb822(stanzas)), Some(want));
    }

    #[test]
    fn finds_none_where_debian_is_not_among_the_sources() {
        let lines = "deb http://archive.example/ubuntu noble main\n";
        assert_eq!(choose(&one_line(lines)), None);
    }
}
