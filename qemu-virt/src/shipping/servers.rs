//! The servers that dumps are shipped to: OpenSSH, vsftpd and nginx of Debian, s3s-fs of crates.io.
//!
//! Debian's run in a root folder of their own (chroot), with an /etc made for the occasion; all run
//! in mount and process namespaces of their own, so that nothing of this machine is changed and
//! nothing outlives the test. Only root may do that: without root only s3s-fs runs.

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::material::{self, Suite};
use crate::run::{self, say};
use crate::setup::apt::Apt;

/// What Debian's servers are made of, besides libraries.
const PACKAGES: [&str; 8] = [
    "dash",
    "libnginx-mod-http-dav-ext",
    "libpam-modules-bin",
    "nginx",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "vsftpd",
];
/// The release of s3s-fs.
const S3_VERSION: &str = "0.14.1";
/// The user that may log in: a name, and an id that is nobody's here.
const USER: (&str, u32) = ("dumps", 61_000);
/// The user's password.
const PASSWORD: &str = "correct-horse";
/// The same as crypt(5) has it: `openssl passwd -6 -salt kdraw`.
const HASH: &str = "$6$kdraw$GxgJB2HEvXpZZyHhxiZ1cOoX9n8YNlP3ueZssVDzlk2gcbDEqWNv40/vAH2vZBdA0.O2Aw9pSfrsh7wi03d2X/";
/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// OpenSSH.
    Sftp,
    /// vsftpd.
    Ftp,
    /// nginx.
    WebDav,
    /// s3s-fs.
    S3,
}

impl Kind {
    /// Whether only root can run it.
    pub fn needs_root(self) -> bool {
        self != Self::S3
    }
}

/// Makes sure that the programs are there.
///
/// # Errors
///
/// When one cannot be had.
pub fn ensure(kind: Kind) -> Result<()> {
    match kind {
        Kind::S3 => s3().map(drop),
        _ => debian().map(drop),
    }
}

/// Returns the root folder with Debian's.
fn debian() -> Result<PathBuf> {
    let root = material::cache_dir().join("servers");
    if root.exists() {
        return Ok(root);
    }
    let _lock = material::lock()?;
    if !root.exists() {
        let apt = Apt::of_host(Suite::Trixie.name())?;
        let mut packages: Vec<crate::setup::apt::Package> = Vec::new();
        for name in PACKAGES {
            for package in material::with_libraries(&apt, name)? {
                if packages.iter().all(|known| known.name != package.name) {
                    packages.push(package);
                }
            }
        }
        run::fill_dir(&root, |part| {
            for folder in ["bin", "lib", "lib64", "sbin"] {
                run::create_dir(&part.join("usr").join(folder))?;
                symlink(Path::new("usr").join(folder), part.join(folder)).context("cannot link")?;
            }
            apt.unpack(&packages, part)?;
            // Where each server has its own.
            for folder in ["dev", "etc", "proc", "run", "srv", "tmp"] {
                run::create_dir(&part.join(folder))?;
            }
            Ok(())
        })?;
    }
    Ok(root)
}

/// Returns the S3-compatible store.
fn s3() -> Result<PathBuf> {
    let root = material::cache_dir().join("s3s-fs");
    let program = root.join("bin/s3s-fs");
    if !program.exists() {
        let _lock = material::lock()?;
        say("building s3s-fs (some minutes)");
        run::quiet(
            Command::new("cargo")
                .args(["install", "--locked", "--debug", "--features", "binary"])
                .args(["--version", S3_VERSION, "--root"])
                .arg(&root)
                .arg("s3s-fs")
                .current_dir(run::workspace())
                .env("CARGO_TARGET_DIR", root.join("target")),
        )
        .context("s3s-fs cannot be installed; `cargo install s3s-fs` shows why")?;
        run::remove_dir(&root.join("target"))?;
    }
    Ok(program)
}

/// A program of the root folder, to be run outside of it: with the libraries beside it.
fn outside(root: &Path, program: &str) -> Result<Vec<PathBuf>> {
    let libraries = run::entries(&root.join("usr/lib"))?
        .into_iter()
        .find(|folder| folder.join("libc.so.6").exists())
        .with_context(|| format!("{} holds no C library", root.display()))?;
    let is_loader = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("ld-linux-")
    };
    let loader = run::entries(&libraries)?.into_iter().find(is_loader);
    let loader = loader.with_context(|| format!("{} has no loader", libraries.display()))?;
    Ok(vec![
        loader,
        "--library-path".into(),
        libraries,
        root.join(program),
    ])
}

/// A server: where its files are, and how it is started.
pub struct Server {
    /// What it is.
    pub kind: Kind,
    /// The folder that it serves, as this machine sees it.
    pub data: PathBuf,
    folder: PathBuf,
    port: u16,
    running: Option<Child>,
}

impl Server {
    /// Lays out a server's files in `folder`; it does not run yet.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn new(kind: Kind, folder: &Path) -> Result<Self> {
        // Nobody listens there; that it stays so is likely enough.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let data = folder.join("data");
        run::remove_dir(folder)?;
        run::create_dir(&data)?;
        let server = Self {
            kind,
            data,
            folder: folder.to_owned(),
            port,
            running: None,
        };
        match kind {
            Kind::S3 => run::create_dir(&server.data.join(USER.0))?,
            _ => {
                chown(&server.data, Some(USER.1), Some(USER.1)).context("cannot chown")?;
                server.configure()?;
            }
        }
        Ok(server)
    }

    /// Its URL, to a folder of this name.
    pub fn url(&self, folder: &str) -> String {
        let (user, port) = (USER.0, self.port);
        match self.kind {
            Kind::Sftp => format!("sftp://{user}@127.0.0.1:{port}/srv/{folder}"),
            Kind::Ftp => format!("ftp://{user}@127.0.0.1:{port}/{folder}"),
            Kind::WebDav => format!("http://{user}@127.0.0.1:{port}/{folder}"),
            Kind::S3 => format!("s3://{user}/{folder}?endpoint=http://127.0.0.1:{port}"),
        }
    }

    /// Where the files of that folder are.
    pub fn files(&self, folder: &str) -> PathBuf {
        match self.kind {
            Kind::S3 => self.data.join(USER.0).join(folder),
            _ => self.data.join(folder),
        }
    }

    /// Gives a command the right credentials, or wrong ones.
    pub fn log_in(&self, command: &mut Command, right: bool) {
        let password = if right { PASSWORD } else { "another" };
        command.env("KDRAW_SHIP_PASSWORD", password);
        command.env("AWS_ACCESS_KEY_ID", USER.0);
        command.env("AWS_SECRET_ACCESS_KEY", password);
        // The `ssh` that is found first has a key, and knows the server's.
        let ssh = self.folder.join(if right { "right" } else { "wrong" });
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", ssh.display()));
    }

    /// Starts it; with `room`, what it serves is an empty file system of so many MiB.
    ///
    /// # Errors
    ///
    /// When it does not listen soon.
    pub fn start(&mut self, room: Option<u32>) -> Result<()> {
        let log = self.folder.join("log");
        let log =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("unshare");
        if run::output(Command::new("id").arg("-u"))?.trim() != "0" {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL"])
            .args(["sh", "-euc", SCRIPT, "sh"])
            .args(self.words()?)
            .env("DATA", &self.data)
            .env("ETC", self.folder.join("etc"))
            .env(
                "ROOM",
                room.map_or_else(String::new, |room| room.to_string()),
            )
            .env("OWNER", USER.1.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.env(
            "ROOT",
            match self.kind {
                Kind::S3 => PathBuf::new(),
                _ => debian()?,
            },
        );
        self.running = Some(command.spawn().context("cannot run unshare")?);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(
                started.elapsed() < START,
                "{:?} does not listen; its log is in {}",
                self.kind,
                self.folder.display()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills it, and whatever it has started.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill().context("cannot kill")?;
            running.wait().context("cannot wait")?;
        }
        Ok(())
    }

    fn words(&self) -> Result<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Ok(match self.kind {
            Kind::Sftp => words(&["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/sshd.conf"]),
            Kind::Ftp => words(&["/usr/sbin/vsftpd", "/etc/vsftpd.conf"]),
            Kind::WebDav => words(&["/usr/sbin/nginx", "-c", "/etc/nginx.conf"]),
            Kind::S3 => words(&[
                &s3()?.to_string_lossy(),
                "--host=127.0.0.1",
                &format!("--port={}", self.port),
                &format!("--access-key={}", USER.0),
                &format!("--secret-key={PASSWORD}"),
                &self.data.to_string_lossy(),
            ]),
        })
    }

    /// Writes its /etc, and what who logs in needs.
    fn configure(&self) -> Result<()> {
        let etc = self.folder.join("etc");
        run::create_dir(&etc.join("pam.d"))?;
        let put = |name: &str, text: &str| {
            let path = etc.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let (user, id) = USER;
        put(
            "passwd",
            &format!(
                "root:x:0:0::/:/bin/sh\nsshd:x:60999:60999::/run/sshd:/bin/false\n\
                 nobody:x:65534:65534::/:/bin/false\n{user}:x:{id}:{id}::/srv:/bin/dash\n"
            ),
        )?;
        put(
            "group",
            &format!("root:x:0:\nsshd:x:60999:\nnogroup:x:65534:\n{user}:x:{id}:\n"),
        )?;
        put("shadow", &format!("{user}:{HASH}:20000:0:99999:7:::\n"))?;
        put("htpasswd", &format!("{user}:{HASH}\n"))?;
        let pam = "auth required pam_unix.so\naccount required pam_unix.so\n\
                   session required pam_permit.so\npassword required pam_deny.so\n";
        put("pam.d/vsftpd", pam)?;
        put("pam.d/other", pam)?;
        let port = self.port;
        match self.kind {
            Kind::Sftp => {
                self.keys()?;
                put("sshd.conf", &format!("Port {port}\n{SSHD}"))
            }
            Kind::Ftp => put("vsftpd.conf", &format!("listen_port={port}\n{VSFTPD}")),
            Kind::WebDav => put("nginx.conf", &NGINX.replace("PORT", &port.to_string())),
            Kind::S3 => Ok(()),
        }
    }

    /// Makes keys, and an `ssh` each that uses a right and a wrong one.
    fn keys(&self) -> Result<()> {
        let root = debian()?;
        let key = |path: &Path| {
            let mut words = outside(&root, "usr/bin/ssh-keygen")?;
            words.extend(["-q", "-t", "ed25519", "-N", "", "-f"].map(PathBuf::from));
            words.push(path.to_owned());
            run::quiet(&mut run::command(words))
        };
        let etc = self.folder.join("etc");
        key(&etc.join("hostkey"))?;
        let public = fs::read_to_string(etc.join("hostkey.pub"))?;
        let known = self.folder.join("known_hosts");
        fs::write(&known, format!("[127.0.0.1]:{} {public}", self.port))?;
        let ssh: Vec<String> = outside(&root, "usr/bin/ssh")?
            .iter()
            .map(|word| format!("\"{}\"", word.display()))
            .collect();
        for name in ["right", "wrong"] {
            let folder = self.folder.join(name);
            run::create_dir(&folder)?;
            key(&folder.join("key"))?;
            fs::write(
                folder.join("config"),
                format!(
                    "UserKnownHostsFile \"{}\"\nGlobalKnownHostsFile /dev/null\n\
                     IdentityFile \"{}\"\nIdentitiesOnly yes\nIdentityAgent none\n",
                    known.display(),
                    folder.join("key").display()
                ),
            )?;
            let script = folder.join("ssh");
            let config = folder.join("config");
            let (ssh, config) = (ssh.join(" "), config.display());
            fs::write(
                &script,
                format!("#!/bin/sh\nexec {ssh} -F \"{config}\" \"$@\"\n"),
            )?;
            fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        }
        let right = self.folder.join("right/key.pub");
        fs::copy(right, etc.join("authorized")).context("cannot copy the key")?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: the test has ended.
        let _ = self.stop();
    }
}

/// Runs a server in the namespaces. Not by `exec`: vsftpd falls over its process number if that is 1.
const SCRIPT: &str = r#"
data=$DATA
if [ -n "$ROOT" ]; then
    data=$ROOT/srv
    mount --rbind /dev "$ROOT/dev"
    mount -t proc proc "$ROOT/proc"
    mount --bind "$ETC" "$ROOT/etc"
    mount -t tmpfs tmpfs "$ROOT/run"
    mount -t tmpfs tmpfs "$ROOT/tmp"
    mkdir -p "$ROOT/run/sshd" "$ROOT/run/empty"
fi
if [ -n "$ROOM" ]; then
    mount -t tmpfs -o "size=${ROOM}m,mode=777" tmpfs "$data"
    mkdir -p "$data/dumps"
elif [ -n "$ROOT" ]; then
    mount --bind "$DATA" "$data"
fi
if [ -n "$ROOT" ]; then
    chroot "$ROOT" "$@"
else
    "$@"
fi
exit
"#;

const SSHD: &str = "ListenAddress 127.0.0.1
HostKey /etc/hostkey
AuthorizedKeysFile /etc/authorized
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
Subsystem sftp /usr/lib/openssh/sftp-server
";

const VSFTPD: &str = "listen=YES
listen_address=127.0.0.1
background=NO
anonymous_enable=NO
local_enable=YES
write_enable=YES
local_umask=022
local_root=/srv
chroot_local_user=YES
allow_writeable_chroot=YES
pam_service_name=vsftpd
secure_chroot_dir=/run/empty
seccomp_sandbox=NO
";

const NGINX: &str = "daemon off;
user root;
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path /srv/.body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    client_max_body_size 0;
    server {
        listen 127.0.0.1:PORT;
        root /srv;
        auth_basic dumps;
        auth_basic_user_file /etc/htpasswd;
        dav_methods PUT DELETE MKCOL MOVE;
        dav_ext_methods PROPFIND;
    }
}
";
