//! Two processes at one address (`on_change: handover`): the one on trial has listening sockets of its own beside those of
//! the one that serves, and no client comes to them before its generation is committed.
//!
//! The kernel chooses among the sockets of a port (SO_REUSEPORT, socket(7)) by a BPF program that answers with a number: theirs,
//! in the order in which they began to listen. A socket that is shut down is out of the order, also where a process has it open,
//! so that the one that serves is the first whenever a trial begins. A unix socket is shared by both.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::record::Record;
use super::sockets::{Kept, Place};
use crate::process::pidfd::Pidfd;

/// A connection whose handshake had begun is there by then: what is lost of one is sent again after a second (RFC 6298).
const HANDSHAKES: Duration = Duration::from_millis(1500);
/// Between two looks at what waits.
const LOOK: Duration = Duration::from_millis(20);

/// The sockets of a process on trial. Closed for all who have them, unless it takes over.
pub(super) struct Beside {
    own: Vec<Arc<Kept>>,
    of: Vec<Arc<Kept>>,
    watch: Option<JoinHandle<()>>,
}

impl Beside {
    /// One beside each of `of`, to which no client comes until it takes over, or `serving` ends by itself. Where the kernel
    /// cannot do that, both processes share theirs, and that is said.
    pub fn open(of: &[Arc<Kept>], serving: Option<&Record>) -> Self {
        let own: Vec<_> = of.iter().map(opened).collect();
        let watch = match serving.map(Record::hold) {
            Some(Ok(Some(pidfd))) => Some(tokio::spawn(stand_in(pidfd, of.to_vec(), own.clone()))),
            // It has ended meanwhile.
            Some(Ok(None)) => {
                steer(of, &own);
                None
            }
            None | Some(Err(_)) => None,
        };
        Self { own, of: of.to_vec(), watch }
    }

    pub fn sockets(&self) -> &[Arc<Kept>] {
        &self.own
    }

    /// From now on all clients come to these. Answers them, and those to which no more come.
    pub fn take_over(mut self) -> (Vec<Arc<Kept>>, Retired) {
        steer(&self.of, &self.own);
        let own = std::mem::take(&mut self.own);
        let retired = self.of.iter().filter(|kept| !own.iter().any(|own| Arc::ptr_eq(own, kept)));
        (own.clone(), Retired(retired.cloned().collect()))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.watch.iter().for_each(JoinHandle::abort);
        self.own.iter().filter(|own| !self.of.iter().any(|of| Arc::ptr_eq(of, own))).for_each(|own| own.close());
    }
}

/// Who comes must not wait for a process that is gone.
async fn stand_in(serving: Pidfd, from: Vec<Arc<Kept>>, to: Vec<Arc<Kept>>) {
    if serving.ended().await.is_ok() {
        steer(&from, &to);
    }
}

fn opened(kept: &Arc<Kept>) -> Arc<Kept> {
    match kept.beside() {
        Ok(Some(own)) => Arc::new(own),
        Ok(None) => Arc::clone(kept),
        Err(error) => {
            let address = &kept.address;
            tracing::warn!(%address, %error, "the next process shares this socket with the one that serves, and has clients at once");
            Arc::clone(kept)
        }
    }
}

/// All who come to the address of one of `from` come to the one of `to` then.
fn steer(from: &[Arc<Kept>], to: &[Arc<Kept>]) {
    for (from, to) in from.iter().zip(to).filter(|(from, to)| !Arc::ptr_eq(from, to)) {
        if let Err(error) = from.steer(Place::Beside) {
            tracing::error!(address = %to.address, %error, "clients still come to the socket of the process before");
        }
    }
}

/// Sockets to which no more clients come. Closed for all who have them when this is dropped: who waits then is refused.
pub(super) struct Retired(pub Vec<Arc<Kept>>);

impl Retired {
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Waits until whoever had come is taken. Cancel-safe.
    pub async fn emptied(&self) {
        if self.0.is_empty() {
            return;
        }
        let earliest = Instant::now() + HANDSHAKES;
        while Instant::now() < earliest || self.0.iter().any(|kept| kept.waits()) {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.0.iter().for_each(|kept| kept.close());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::config::model::Listen;

    struct Clients(SocketAddr, Vec<TcpStream>);

    impl Clients {
        /// How many of forty new connections come to each of these.
        fn at<const N: usize>(&mut self, sockets: [&TcpListener; N]) -> [usize; N] {
            self.1.extend((0..40).map(|_| TcpStream::connect(self.0).unwrap()));
            sockets.map(|socket| std::iter::from_fn(|| socket.accept().ok()).count())
        }
    }

    /// What a process has of a socket.
    fn process(kept: &Kept) -> TcpListener {
        let copy = TcpListener::from(kept.as_fd().try_clone_to_owned().unwrap());
        copy.set_nonblocking(true).unwrap();
        copy
    }

    fn serving(host: &str) -> (Vec<Arc<Kept>>, TcpListener, Clients) {
        // A port that was free a moment ago.
        let address = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        let kept = Arc::new(Kept::open(&Listen::Tcp(address), &[]).unwrap());
        let first = process(&kept);
        (vec![kept], first, Clients(address, Vec::new()))
    }

    #[tokio::test]
    async fn clients_come_to_the_one_that_serves_until_the_other_takes_over_and_so_on() {
        for host in ["127.0.0.1", "::1"] {
            if host == "::1" && TcpListener::bind((host, 0)).is_err() {
                continue; // a machine without IPv6
            }
            let (mut sockets, mut first, mut clients) = serving(host);
            for _ in 0..3 {
                let refused = Beside::open(&sockets, None);
                let second = process(&refused.sockets()[0]);
                assert_eq!(clients.at([&first, &second]), [40, 0]);
                drop(refused);
                assert!(second.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput), "closed");
                assert_eq!(clients.at([&first]), [40]);
                let beside = Beside::open(&sockets, None);
                let second = process(&beside.sockets()[0]);
                assert_eq!(clients.at([&first, &second]), [40, 0]);
                let (own, retired) = beside.take_over();
                assert_eq!(clients.at([&first, &second]), [0, 40]);
                drop(retired);
                assert_eq!(clients.at([&second]), [40]);
                (sockets, first) = (own, second);
            }
        }
    }

    #[tokio::test]
    async fn who_had_come_before_is_waited_for_and_nobody_is_where_nothing_retires() {
        let (sockets, first, clients) = serving("127.0.0.1");
        let client = TcpStream::connect(clients.0).unwrap();
        let (_own, retired) = Beside::open(&sockets, None).take_over();
        tokio::time::timeout(2 * HANDSHAKES, retired.emptied()).await.unwrap_err();
        let _accepted = first.accept().unwrap();
        tokio::time::timeout(20 * HANDSHAKES, retired.emptied()).await.unwrap();
        Retired::none().emptied().await;
        drop(client);
    }

    #[tokio::test]
    async fn where_the_one_that_serves_ends_the_one_on_trial_stands_in_for_it() {
        let (sockets, first, mut clients) = serving("127.0.0.1");
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let record = Record::of(pid, "t", "m").unwrap();
        let beside = Beside::open(&sockets, Some(&record));
        let second = process(&beside.sockets()[0]);
        assert_eq!(clients.at([&first, &second]), [40, 0]);
        child.kill().unwrap();
        while clients.at([&first, &second])[1] == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(clients.at([&first, &second]), [0, 40]);
        child.wait().unwrap();
        // Also where its number is another's by now.
        drop(beside);
        assert_eq!(clients.at([&first]), [40]);
        let own = i32::try_from(std::process::id()).unwrap();
        let stranger = Record { pid: own, ..record };
        let beside = Beside::open(&sockets, Some(&stranger));
        let second = process(&beside.sockets()[0]);
        assert_eq!(clients.at([&first, &second]), [0, 40]);
        drop(beside);
        // Nobody is refused: the next process will take them.
        assert_eq!(clients.at([&first]), [40]);
    }

    /// As one from an agent that could not yet.
    #[tokio::test]
    async fn a_socket_that_no_other_can_be_beside_is_shared() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::new(Kept::taken(Listen::Tcp(address), listener.into()));
        let first = process(&kept);
        let beside = Beside::open(&[kept], None);
        let second = process(&beside.sockets()[0]);
        let (_own, retired) = beside.take_over();
        drop(retired);
        assert_eq!(Clients(address, Vec::new()).at([&first, &second]), [40, 0], "the same queue");
    }
}
