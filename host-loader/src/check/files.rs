//! The configuration, and where dumps are saved.

use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::config;
use crate::text;

/// The configuration can be read.
pub fn configuration(facts: &Facts<'_>) -> Judgement {
    match &facts.config_error {
        Some(why) => {
            Judgement::red(why.to_string()).fix(format!("correct it: $EDITOR {}", config::FILE))
        }
        None if facts.system.exists(config::FILE) => Judgement::green(config::FILE),
        None => Judgement::green(format!("no {}: all defaults", config::FILE)),
    }
}

/// There is room to save dumps.
pub fn save(facts: &Facts<'_>) -> Judgement {
    let save = &facts.config.save;
    let path = facts.system.path(&save.directory);
    // It is made when the first dump is saved.
    let Some(there) = path.ancestors().find(|folder| folder.is_dir()) else {
        return Judgement::amber(format!("no folder leads to {}", save.directory.display()));
    };
    let stat = match rustix::fs::statvfs(there) {
        Ok(stat) => stat,
        Err(why) => return Judgement::amber(format!("{}: {why}", save.directory.display())),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let floor = save.min_free_mib.saturating_mul(1 << 20);
    let state = format!(
        "{} has {} free, {} of that stay free",
        save.directory.display(),
        text::size(free),
        text::size(floor)
    );
    if free <= floor {
        return Judgement::amber(format!("{state}: a dump would stay on its partition"))
            .fix("save.directory on a larger file system, in /etc/kdraw.conf");
    }
    Judgement::green(state)
}
