//! Several reports beside each other: which have one cause, what they have in common, and what
//! differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use maud::html;
use serde::Serialize;

use super::Report;
use super::html::{document, field};

/// Several dumps, compared.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The version of kdraw that made it.
    pub kdraw: &'static str,
    /// The dumps; elsewhere they are told by their numbers here, from 0 on.
    pub dumps: Vec<Compared>,
    /// Those of one signature together, the largest group first.
    pub groups: Vec<Group>,
    /// What is the same for all.
    pub common: Vec<Same>,
    /// What is not.
    pub different: Vec<Differing>,
}

/// A dump, in short.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// Its name.
    pub dump: String,
    /// When it crashed.
    pub crashed: Option<String>,
    /// What happened.
    pub sentence: String,
    /// How many things its report lacks.
    pub lacking: usize,
}

/// Dumps of one cause.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Their signature; `None` for those that have none.
    pub signature: Option<String>,
    /// What kind of end it was.
    pub kind: Option<String>,
    /// What happened to the first of them.
    pub sentence: String,
    /// Their numbers.
    pub dumps: Vec<usize>,
}

/// Something that is the same for all.
#[derive(Debug, Serialize)]
pub struct Same {
    /// What.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// Something that is not the same for all.
#[derive(Debug, Serialize)]
pub struct Differing {
    /// What.
    pub name: &'static str,
    /// Values, and the numbers of the dumps that have them; `None` where it is not known.
    pub values: Vec<(Option<String>, Vec<usize>)>,
}

/// Values, and the numbers of the dumps that have them.
type Having = BTreeMap<Option<String>, Vec<usize>>;

/// What reports are compared by.
fn aspects(report: &Report) -> Vec<(&'static str, Option<String>)> {
    let found = &report.diagnosis;
    let culprit = found.culprit.as_ref();
    let identity: BTreeMap<_, _> = report.identity.fields().into_iter().collect();
    let of_identity = |name| (name, identity.get(name).cloned());
    let taint = report.taint.as_ref().map(|taint| {
        let letters = taint.iter().map(|taint| taint.letter);
        match letters.collect::<String>() {
            letters if letters.is_empty() => "none".to_owned(),
            letters => letters,
        }
    });
    vec![
        ("kind", found.kind.clone()),
        (
            "culprit",
            culprit.and_then(|culprit| culprit.function.clone()),
        ),
        ("module", culprit.and_then(|culprit| culprit.module.clone())),
        ("task", culprit.and_then(|culprit| culprit.task.clone())),
        of_identity("board"),
        of_identity("host"),
        of_identity("kernel"),
        of_identity("version"),
        of_identity("build id"),
        of_identity("CPUs"),
        of_identity("memory"),
        of_identity("command line"),
        ("taint", taint),
        of_identity("uptime"),
        of_identity("crashed"),
    ]
}

impl Comparison {
    /// Compares reports.
    pub fn new(reports: &[Report]) -> Self {
        let dumps = reports.iter().map(|report| Compared {
            dump: report.dump.clone(),
            crashed: report.identity.crashed.clone(),
            sentence: report.sentence().to_owned(),
            lacking: report.lacking.len(),
        });
        let mut groups: Vec<Group> = Vec::new();
        for (number, report) in reports.iter().enumerate() {
            let signature = &report.diagnosis.signature;
            let known = groups
                .iter_mut()
                .find(|group| group.signature == *signature);
            match known {
                Some(group) => group.dumps.push(number),
                None => groups.push(Group {
                    signature: signature.clone(),
                    kind: report.diagnosis.kind.clone(),
                    sentence: report.sentence().to_owned(),
                    dumps: vec![number],
                }),
            }
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.dumps.len()));
        let mut compared = Self {
            kdraw: env!("CARGO_PKG_VERSION"),
            dumps: dumps.collect(),
            groups,
            common: Vec::new(),
            different: Vec::new(),
        };
        let mut values: Vec<(&str, Having)> = Vec::new();
        for (number, report) in reports.iter().enumerate() {
            for (at, (name, value)) in aspects(report).into_iter().enumerate() {
                if values.len() <= at {
                    values.push((name, Having::new()));
                }
                if let Some((_, known)) = values.get_mut(at) {
                    known.entry(value).or_default().push(number);
                }
            }
        }
        for (name, values) in values {
            compared.sort(name, values.into_iter().collect());
        }
        compared.sort_modules(reports);
        compared
    }

    /// What is known of none is not told.
    fn sort(&mut self, name: &'static str, values: Vec<(Option<String>, Vec<usize>)>) {
        match values.as_slice() {
            [(None, _)] => {}
            [(Some(value), _)] => self.common.push(Same {
                name,
                value: value.clone(),
            }),
            _ => self.different.push(Differing { name, values }),
        }
    }

    /// Of modules there are many: those that all have, and each of the others.
    fn sort_modules(&mut self, reports: &[Report]) {
        let names = |report: &Report| -> Option<BTreeSet<String>> {
            let modules = report.modules.as_ref()?.iter();
            Some(modules.map(|module| module.name.clone()).collect())
        };
        let mut having: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut known = 0usize;
        for (number, report) in reports.iter().enumerate() {
            let Some(names) = names(report) else { continue };
            known = known.saturating_add(1);
            for name in names {
                having.entry(name).or_default().push(number);
            }
        }
        let all = having.iter().filter(|(_, dumps)| dumps.len() == known);
        let all: Vec<&str> = all.map(|(name, _)| name.as_str()).collect();
        let value = all.join(", ");
        if !all.is_empty() {
            self.common.push(Same {
                name: "modules",
                value,
            });
        }
        let mut others: BTreeMap<Vec<usize>, Vec<String>> = BTreeMap::new();
        for (name, dumps) in having {
            if dumps.len() < known {
                others.entry(dumps).or_default().push(name);
            }
        }
        let values = others
            .into_iter()
            .map(|(dumps, names)| (Some(names.join(", ")), dumps));
        let values: Vec<_> = values.collect();
        if !values.is_empty() {
            self.different.push(Differing {
                name: "modules",
                values,
            });
        }
    }

    fn headline(&self) -> String {
        let causes = match self.groups.len() {
            1 => "one cause".to_owned(),
            causes => format!("{causes} causes"),
        };
        format!("{} dumps, {causes}", self.dumps.len())
    }

    /// For a terminal.
    pub fn in_words(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        for group in &self.groups {
            let signature = group.signature.as_deref().unwrap_or("no signature");
            let _ = writeln!(
                text,
                "\n{signature}  {}  {}",
                group.kind.as_deref().unwrap_or("unknown"),
                match group.dumps.len() {
                    1 => "one dump".to_owned(),
                    several => format!("{several} dumps"),
                }
            );
            let _ = writeln!(text, "  {}", group.sentence);
            for number in &group.dumps {
                let Some(dump) = self.dumps.get(*number) else {
                    continue;
                };
                let when = dump.crashed.as_deref().unwrap_or("-");
                let _ = writeln!(text, "  {:>3}  {when:<23}  {}", place(*number), dump.dump);
            }
        }
        let _ = writeln!(text, "\nIn common\n---------");
        for same in &self.common {
            let _ = writeln!(text, "  {:<12} {}", same.name, same.value);
        }
        let _ = writeln!(text, "\nDifferent\n---------");
        for different in &self.different {
            for (number, (value, dumps)) in different.values.iter().enumerate() {
                let name = if number == 0 { different.name } else { "" };
                let value = value.as_deref().unwrap_or("(not known)");
                let _ = writeln!(text, "  {name:<12} {value}  [{}]", places(dumps));
            }
        }
        text
    }

    /// As a page.
    pub fn page(&self) -> String {
        let body = html! {
            header {
                p.label { "kdraw report" }
                h1 { (self.headline()) }
            }
            @for group in &self.groups {
                section {
                    h2 { (group.sentence) }
                    dl {
                        (field("signature", group.signature.as_deref().unwrap_or("none")))
                        (field("kind", group.kind.as_deref().unwrap_or("unknown")))
                    }
                    table {
                        thead { tr { th.n { "#" } th { "crashed" } th { "dump" } th.n { "lacks" } } }
                        tbody {
                            @for (number, dump) in group.dumps.iter().filter_map(|number| Some((number, self.dumps.get(*number)?))) {
                                tr {
                                    td.n { (place(*number)) }
                                    td.when { (dump.crashed.as_deref().unwrap_or("not known")) }
                                    td { (dump.dump) }
                                    td.n { (dump.lacking) }
                                }
                            }
                        }
                    }
                }
            }
            section {
                h2 { "In common" }
                @if self.common.is_empty() { p.note { "Nothing." } }
                dl { @for same in &self.common { (field(same.name, &same.value)) } }
            }
            section {
                h2 { "Different" }
                @if self.different.is_empty() { p.note { "Nothing." } }
                @for different in &self.different {
                    h3 { (different.name) }
                    table {
                        tbody {
                            @for (value, dumps) in &different.values {
                                tr {
                                    td { (value.as_deref().unwrap_or("not known")) }
                                    td.n { (places(dumps)) }
                                }
                            }
                        }
                    }
                }
            }
            footer { "Made by kdraw " (self.kdraw) }
        };
        document(&self.headline(), &body)
    }
}

/// A dump's number for people, from 1 on.
fn place(number: usize) -> usize {
    number.saturating_add(1)
}

fn places(numbers: &[usize]) -> String {
    let places = numbers.iter().map(|number| place(*number).to_string());
    places.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn repeats_are_one_group_and_what_differs_is_told() {
        let of = |signature: &str, release: &str, module: &str| {
            let mut report = report("words");
            report.diagnosis.signature = Some(signature.to_owned());
            report.identity.release = Some(release.to_owned());
            for known in report.modules.iter_mut().flatten() {
                known.name = module.to_owned();
            }
            report
        };
        let reports = [
            of("a", "6.1", "ext4"),
            of("b", "6.1", "ext4"),
            of("b", "6.12", "<xfs>"),
        ];
        let compared = Comparison::new(&reports);
        let groups: Vec<_> = compared
            .groups
            .iter()
            .map(|group| group.dumps.clone())
            .collect();
        assert_eq!(groups, [vec![1, 2], vec![0]]);
        let common: Vec<_> = compared.common.iter().map(|same| same.name).collect();
        assert_eq!(common, ["command line"]);
        let text = compared.in_words();
        assert!(
            text.starts_with("3 dumps, 2 causes\n\nb  unknown  2 dumps\n"),
            "{text}"
        );
        assert!(
            text.contains("  kernel       6.1  [1 2]\n               6.12  [3]\n"),
            "{text}"
        );
        assert!(
            text.contains("  modules      ext4  [1 2]\n               <xfs>  [3]\n"),
            "{text}"
        );
        let page = compared.page();
        assert!(page.contains("&lt;xfs&gt;") && !page.contains("<xfs>"));
    }
}
