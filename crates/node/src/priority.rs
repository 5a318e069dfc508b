//! Work that nobody waits for, behind work that somebody does.

/// On a scale where 0 is ordinary and 19 the least that Linux grants.
const NICENESS: i32 = 10;

/// Lets other threads go before this one, and before those it starts, where processors are short. For copies of
/// partitions and for what is brought from memory into an engine: requests wait for neither.
pub fn give_way() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "a thread that was to give way runs at the priority of all");
    }
}

/// Does something on a thread that gives way, and waits for it. For a start that reads much: what else the machine serves
/// goes first.
///
/// # Panics
/// As `act` does.
pub fn behind_requests<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_way();
            act()
        });
        thread.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gives_way_does_so_alone_and_with_what_it_starts() {
        let own = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = own();
        let thread = std::thread::spawn(move || {
            give_way();
            (own(), std::thread::spawn(own).join().unwrap())
        });
        assert_eq!(thread.join().unwrap(), (NICENESS, NICENESS));
        assert_eq!(behind_requests(own), NICENESS);
        assert_eq!(own(), before);
    }

    #[test]
    #[should_panic(expected = "as it did there")]
    fn a_panic_behind_requests_is_a_panic_here() {
        behind_requests(|| panic!("as it did there"));
    }
}
