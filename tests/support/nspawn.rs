//! A real systemd, booted in a container that is thrown away (systemd-nspawn(1)). Needs root.
//!
//! The root filesystem is built once by `scripts/systemd-container`; what is written inside goes to an overlay in
//! memory, of one boot or of all boots of a machine. One machine at a time on this filesystem: others wait for the lock.
#![allow(dead_code)] // each test file uses its part

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Booting takes 0.6 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(60);

/// Its units may take 90 s each to stop (DefaultTimeoutStopSec=).
const SHUTDOWN: Duration = Duration::from_secs(240);

/// A booted machine; killed when dropped, halted when the thread that booted it ends without that.
pub struct Machine {
    nspawn: Child,
    init: i32,
    // In this order: its folder goes when nspawn has ended.
    _disk: Option<tempfile::TempDir>,
    _lock: Flock<File>,
}

/// Boots again and again from an overlay in a mount namespace of its own: folder, root, arguments of nspawn.
const KEPT: &str = r#"dir=$1 root=$2; shift 2
mount -t tmpfs -o mode=0755 tmpfs "$dir" && mkdir "$dir/upper" "$dir/work" "$dir/root" &&
mount -t overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" overlay "$dir/root" || exit 1
while :; do
  setpriv --pdeathsig TERM systemd-nspawn "$@" --directory="$dir/root"
  [ $? = 133 ] || exit 1
done"#;

impl Machine {
    /// Boots one. `binds` are folders of this machine and where they are seen inside, read-only. `Err` says why it cannot
    /// be done on this machine.
    pub fn boot(binds: &[(&Path, &str)]) -> Result<Self, String> {
        Self::start(binds, false)
    }

    /// The same with a disk that is kept over [`Machine::reboot`].
    pub fn boot_with_disk(binds: &[(&Path, &str)]) -> Result<Self, String> {
        Self::start(binds, true)
    }

    fn start(binds: &[(&Path, &str)], keep: bool) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a real systemd needs root (systemd-nspawn)".to_owned());
        }
        let root = root()?;
        let lock = lock(&root)?;
        let disk = keep.then(tempfile::tempdir).transpose().map_err(|e| format!("a folder for its disk: {e}"))?;
        let mut command = Command::new("setpriv");
        // TERM, upon which nspawn halts its machine: when it is killed instead, the machine lives on.
        command.args(["--pdeathsig", "TERM"]);
        if let Some(disk) = &disk {
            command.args(["unshare", "--mount", "sh", "-c", KEPT, "sh"]).args([disk.path(), &root]);
        } else {
            command.args(["systemd-nspawn", "--volatile=overlay"]).arg(format!("--directory={}", root.display()));
        }
        command.args(["-q", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--private-network"]);
        for (outside, inside) in binds {
            command.arg(format!("--bind-ro={}:{inside}", outside.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nspawn = command.spawn().map_err(|e| format!("cannot start systemd-nspawn: {e}"))?;
        let mut machine = Self { nspawn, init: 0, _disk: disk, _lock: lock };
        machine.wait_for_boot()?;
        Ok(machine)
    }

    /// Shuts it down and boots it again, from its disk if it has one.
    pub fn reboot(&mut self) {
        self.boot_again(&["systemctl", "reboot"]);
    }

    /// The same as if somebody had pressed the button: nothing is told to stop.
    pub fn reset(&mut self) {
        self.boot_again(&["systemctl", "reboot", "--force", "--force"]);
    }

    fn boot_again(&mut self, how: &[&str]) {
        let before = PathBuf::from(format!("/proc/{}", std::mem::take(&mut self.init)));
        let init = before.file_name().and_then(|pid| pid.to_str()).expect("a pid").to_owned();
        let _ = Command::new("nsenter").args(["-t", &init, "-a", "--"]).args(how).output();
        let deadline = Instant::now() + SHUTDOWN;
        while before.exists() {
            assert!(Instant::now() < deadline, "the machine did not shut down within {SHUTDOWN:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait_for_boot().expect("it boots again");
    }

    fn wait_for_boot(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BOOT;
        loop {
            if let Ok(Some(status)) = self.nspawn.try_wait() {
                return Err(format!("systemd-nspawn ended with {status}: are namespaces and mounts allowed here?"));
            }
            if self.init == 0 {
                self.init = init_below(self.nspawn.id()).unwrap_or(0);
            } else {
                let state = self.run(&["systemctl", "is-system-running"]);
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                if state == "running" || state == "degraded" {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(format!("systemd did not boot within {BOOT:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command that will run inside, as root, with an environment of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-a", "--", program]);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command inside to its end.
    pub fn run(&self, argv: &[&str]) -> Output {
        let (program, arguments) = argv.split_first().expect("a program");
        self.command(program).args(arguments).output().expect("nsenter runs")
    }

    /// Runs a command inside that must succeed; answers its standard output.
    pub fn must(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{argv:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, content: &str) {
        let mut command = self.command("sh");
        command.args(["-c", "mkdir -p \"$(dirname \"$1\")\" && cat > \"$1\"", "sh", path]).stdin(Stdio::piped());
        let mut child = command.spawn().expect("nsenter runs");
        child.stdin.take().expect("piped").write_all(content.as_bytes()).expect("written");
        assert!(child.wait().expect("waited").success(), "writing {path}");
    }

    /// Writes a unit and has systemd read it.
    pub fn unit(&self, name: &str, content: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), content);
        self.must(&["systemctl", "daemon-reload"]);
    }

    /// Process id of its init, as seen from outside.
    pub fn init(&self) -> i32 {
        self.init
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its init the whole machine is gone, and nspawn cleans up after it.
        if self.init > 0 {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.init), nix::sys::signal::Signal::SIGKILL);
        } else {
            let _ = self.nspawn.kill();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.nspawn.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

fn root() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd-container");
    let output = Command::new(&script).output().map_err(|e| format!("{}: {e}", script.display()))?;
    if !output.status.success() {
        return Err(format!("scripts/systemd-container: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn lock(root: &Path) -> Result<Flock<File>, String> {
    let path = root.with_extension("booted.lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| format!("{}: {e}", path.display()))
}

/// nspawn's first child is a helper; init is the one that is called `systemd`.
fn init_below(nspawn: u32) -> Option<i32> {
    let mut parents = vec![i32::try_from(nspawn).ok()?];
    while let Some(parent) = parents.pop() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        for child in children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            if fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == "systemd") {
                return Some(child);
            }
            parents.push(child);
        }
    }
    None
}
