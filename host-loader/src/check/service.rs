//! The service that loads the payload at each boot.

use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::check::fix::Remedy;
use crate::system::System;

/// Where systemd looks for units, in its order (systemd.unit(5)).
const UNITS: [&str; 3] = [
    "/etc/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
];
/// The unit.
const UNIT: &str = "kdraw.service";
/// The script of sysvinit and OpenRC.
const SCRIPT: &str = "/etc/init.d/kdraw";

/// The payload is loaded at each boot.
pub fn service(facts: &Facts<'_>) -> Judgement {
    let system = facts.system;
    if let Some(link) = enabled(system) {
        return Judgement::green(format!("enabled: {link}"));
    }
    let root = match facts.is_image {
        true => Some(system.path("/").display().to_string()),
        false => None,
    };
    let command = if UNITS
        .iter()
        .any(|dir| system.exists(format!("{dir}/{UNIT}")))
    {
        let root = root.map(|root| format!("--root={root}"));
        let words = [
            Some("systemctl".to_owned()),
            root,
            Some("enable".to_owned()),
        ];
        words
            .into_iter()
            .flatten()
            .chain([UNIT.to_owned()])
            .collect()
    } else if system.exists(SCRIPT) {
        let tool: &[&str] = match system.exists("/etc/runlevels") {
            true => &["rc-update", "add", "kdraw", "default"],
            false => &["update-rc.d", "kdraw", "defaults"],
        };
        let inside = root.map(|root| vec!["chroot".to_owned(), root]);
        let tool = tool.iter().map(|word| (*word).to_owned());
        inside.into_iter().flatten().chain(tool).collect()
    } else {
        return Judgement::red(format!(
            "neither {UNIT} nor {SCRIPT} is there: nothing loads the payload at the next boot"
        ))
        .fix("install kdraw's package, or have a script of yours run `kdraw load` at each boot");
    };
    let remedy = Remedy::Run(command);
    Judgement::red("not enabled: nothing loads the payload at the next boot")
        .fix(remedy.command())
        .remedy(remedy)
}

/// What starts it, if anything does.
fn enabled(system: &System) -> Option<String> {
    // Folder, how its folders are called, what starts us there, in each.
    let places = [
        ("/etc/systemd/system", ".wants", UNIT),
        ("/etc/systemd/system", ".requires", UNIT),
        ("/etc/runlevels", "", "kdraw"),
    ];
    let linked = |(parent, suffix, name): (&str, &str, &str)| {
        let folders = entries(system, parent);
        let mut folders = folders
            .into_iter()
            .filter(|folder| folder.ends_with(suffix));
        let link = |folder: &String| format!("{parent}/{folder}/{name}");
        // A link that leads nowhere in an image may be right in the running system.
        folders
            .find(|folder| system.path(link(folder)).is_symlink())
            .map(|folder| link(&folder))
    };
    let sysv = || {
        let folders = ["2", "3", "4", "5", "S"].map(|level| format!("/etc/rc{level}.d"));
        let mut links = folders.iter().flat_map(|folder| {
            let names = entries(system, folder).into_iter();
            names.map(move |name| (format!("{folder}/{name}"), name))
        });
        let starts = |name: &str| name.starts_with('S') && name.ends_with("kdraw");
        links.find(|(_, name)| starts(name)).map(|(link, _)| link)
    };
    places.into_iter().find_map(linked).or_else(sysv)
}

fn entries(system: &System, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(system.path(folder)).into_iter().flatten();
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.collect()
}
