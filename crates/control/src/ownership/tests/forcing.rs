//! A majority that is lost for good (rule 24).

use super::*;

/// Longer than a majority must have been silent.
const LONG: Duration = Duration::from_secs(20);

impl World {
    fn force(&mut self, n: u128) -> Result<Arc<Claim>, ForceRefusal> {
        let now = self.now;
        self.node(n).force_claim(now, P)
    }

    /// Who is alive by gossip.
    fn alive(&mut self, alive: &[u128]) {
        let eligible = alive.iter().map(|n| owner(*n)).collect();
        self.wishes = Arc::new(Wishes { eligible, ..Wishes::default() });
        self.spread_wishes();
    }

    fn forced_events(&mut self, n: u128) -> usize {
        self.machine(n).events.iter().filter(|event| matches!(event, Event::Forced(_))).count()
    }
}

/// Nodes 1 and 2 own the partition, 1 is lost, and 2 can decide nothing.
fn stuck() -> World {
    let mut world = World::new(3);
    world.bootstrap(&[1, 2]);
    world.run(ms(100));
    for (counter, payload) in ["a", "b", "c"].into_iter().enumerate() {
        world.write(1, counter as u64, payload);
    }
    world.run(Duration::from_secs(6)); // A heartbeat tells the commit.
    world.crash(1);
    world.alive(&[2, 3]);
    world
}

#[test]
fn a_survivor_of_two_serves_what_it_has_and_gets_replicas_again() {
    let mut world = stuck();
    world.run(LONG);
    assert_eq!((world.role(2), world.read(2) == Admission::Serve), (Role::Sealed, false));

    let forced = world.force(2).unwrap();
    assert_eq!((&forced.owners[..], forced.epoch), (&[owner(2)][..], Epoch(2 + FORCED_EPOCH_GAP + 1)));
    world.run(ms(20));
    assert_eq!((world.role(2), world.read(2)), (Role::Primary, Admission::Serve));
    assert_eq!((world.data(2), world.forced_events(2)), (["a", "b", "c"].map(str::to_owned).to_vec(), 1));
    assert_eq!(world.node(2).stats().forced, 1);
    assert!(world.machine(2).events.contains(&Event::Decided(forced.clone())));
    world.write(2, 10, "d");
    assert_eq!(world.force(2), Err(ForceRefusal::Served));

    world.wish(&[2, 3]);
    world.run(Duration::from_secs(5));
    assert_eq!(world.role(3), Role::Replica);
    world.write(2, 11, "e");
    world.run(Duration::from_secs(6));
    assert_eq!(world.data(3).len(), 5);
}

#[test]
fn an_owner_that_comes_back_follows_what_was_forced_and_drops_what_it_had() {
    let mut world = stuck();
    world.run(LONG);
    let forced = world.force(2).unwrap();
    world.run(ms(20));
    world.start(1);
    world.run(LONG);
    assert_eq!(world.epoch(1), forced.epoch);
    assert_eq!((world.node(1).owned(), world.data(1)), (0, Vec::new()));
    assert_eq!(world.role(2), Role::Primary);
    world.write(2, 10, "d");
}

#[test]
fn a_primary_without_the_others_is_forced_with_what_it_had_not_committed() {
    let mut world = World::serving(3);
    world.alive(&[1]);
    world.write(1, 1, "a");
    world.crash(2);
    world.crash(3);
    let open = world.send(1, 2, "b");
    world.run(ms(5_000));
    assert!(matches!(world.force(1), Err(ForceRefusal::TooSoon { .. })), "{:?}", world.force(1));
    world.run(LONG);
    world.force(1).unwrap();
    world.run(ms(20));
    assert_eq!(world.outcome(1, open), Some(WriteOutcome::Unknown));
    assert_eq!((world.read(1), world.data(1)), (Admission::Serve, vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn what_is_served_or_not_owned_or_may_be_back_is_not_forced() {
    let mut world = stuck();
    assert_eq!(world.force(2), Err(ForceRefusal::Served), "its primary was heard of within a lease");
    assert_eq!(world.force(3), Err(ForceRefusal::NotOwner));
    world.run(ms(5_000));
    let Err(ForceRefusal::TooSoon { wait }) = world.force(2) else { panic!("four leases are not over") };
    world.run(wait);
    assert_eq!(world.force(2).map(|claim| claim.owners.len()), Ok(1));

    let mut world = World::serving(4);
    assert_eq!(world.force(1), Err(ForceRefusal::Served));
    assert_eq!(world.force(2), Err(ForceRefusal::Served));
    let now = world.now;
    assert_eq!(world.node(2).force_stuck(now), []);
    // A copy that counts in no majority, and one that did before.
    world.imports_run = false;
    world.wish(&[1, 2, 4]);
    world.run(ms(500));
    assert_eq!((world.role(4), world.force(4)), (Role::Joiner, Err(ForceRefusal::NotOwner)));
    world.imports_run = true;
    world.run(ms(500));
    assert_eq!((world.role(3), world.force(3)), (Role::Former, Err(ForceRefusal::NotOwner)));
}

#[test]
fn a_majority_that_is_alive_or_answers_decides_by_itself() {
    // By gossip it is alive, and only this node does not reach it.
    let mut world = World::serving(3);
    world.alive(&[1, 2, 3]);
    world.cut.insert(owner(3));
    world.run(LONG);
    let there = vec![owner(3), owner(1), owner(2)];
    assert_eq!(world.force(3), Err(ForceRefusal::MajorityThere { there }));

    // By gossip it is gone, and yet it answers.
    let mut world = World::serving(3);
    world.alive(&[3]);
    world.crash(1);
    world.crash(2);
    world.run(LONG);
    let ballot = Ballot { round: 1, proposer: owner(3) };
    let message = Message::Refused { partition: P, epoch: Epoch(2), ballot, promised: None };
    let now = world.now;
    world.node(3).handle_message(now, Envelope { from: owner(2), to: owner(3), message });
    let there = vec![owner(3), owner(2)];
    assert_eq!(world.force(3), Err(ForceRefusal::MajorityThere { there }));
    world.run(LONG);
    assert_eq!(world.force(3).map(|claim| claim.owners.len()), Ok(1), "it was heard of too long ago");
}

/// Five owners, of whom 4 and 5 survive; 5 has missed the last write.
fn two_of_five() -> World {
    let mut world = World::new(5);
    world.bootstrap(&[1, 2, 3, 4, 5]);
    world.run(ms(100));
    world.write(1, 1, "a");
    world.run(Duration::from_secs(6));
    world.machine(5).paused = true;
    world.write(1, 2, "b");
    world.wire.retain(|(_, envelope)| envelope.to != owner(5));
    (1..=3).for_each(|n| world.crash(n));
    world.machine(5).paused = false;
    world.alive(&[4, 5]);
    world
}

#[test]
fn the_longest_log_among_survivors_is_forced_and_no_other() {
    let mut world = two_of_five();
    world.run(LONG);
    let refusal = world.force(5).unwrap_err();
    assert!(matches!(&refusal, ForceRefusal::LongerLog { owner: o, .. } if *o == owner(4)), "{refusal}");
    let forced = world.force(4).unwrap();
    assert_eq!(forced.owners[..], [owner(4), owner(5)]);
    world.run(Duration::from_secs(6));
    assert_eq!((world.role(4), world.role(5)), (Role::Primary, Role::Replica));
    assert_eq!((world.data(4).len(), world.data(5).len()), (2, 2));
    world.write(4, 3, "c");
}

#[test]
fn two_survivors_forced_at_once_make_no_two_claims_of_one_epoch() {
    let mut world = World::new(5);
    world.bootstrap(&[1, 2, 3, 4, 5]);
    world.run(ms(100));
    world.write(1, 1, "a");
    world.run(Duration::from_secs(6));
    (1..=3).for_each(|n| world.crash(n));
    world.alive(&[4, 5]);
    world.run(LONG);
    let (four, five) = (world.force(4).unwrap(), world.force(5).unwrap());
    assert_ne!(four.epoch, five.epoch);
    world.run(LONG);
    assert!(world.epoch(4) >= five.epoch && world.epoch(4) == world.epoch(5));
    assert_eq!((world.data(4), world.data(5)), (vec!["a".to_owned()], vec!["a".to_owned()]));
}

#[test]
fn an_owner_that_is_alive_and_has_not_said_what_it_has_is_waited_for() {
    let mut world = two_of_five();
    world.cut.insert(owner(5));
    world.run(LONG);
    assert_eq!(world.force(4), Err(ForceRefusal::Silent { owner: owner(5) }));
    world.alive(&[4]);
    assert_eq!(world.force(4).map(|claim| claim.owners.to_vec()), Ok(vec![owner(4)]));
}

#[test]
fn a_forced_claim_is_unknown_until_it_is_durable() {
    let mut world = stuck();
    world.run(LONG);
    world.machine(2).disk_stands_still = true;
    let forced = world.force(2).unwrap();
    assert_eq!(world.force(2), Ok(forced), "asked twice, made once");
    world.run(ms(200));
    assert_eq!((world.epoch(2), world.forced_events(2)), (Epoch(1), 0));
    world.crash(2);
    world.machine(2).disk_stands_still = false;
    world.start(2);
    world.run(ms(200));
    assert_eq!(world.epoch(2), Epoch(1), "what was not durable was not");

    world.run(LONG);
    let forced = world.force(2).unwrap();
    world.run(ms(20));
    world.crash(2);
    world.start(2);
    world.run(ms(5_000));
    assert_eq!((world.role(2), world.epoch(2)), (Role::Primary, forced.next_epoch()));
}

#[test]
fn a_survivor_that_sealed_itself_anew_meanwhile_writes_its_claim_again() {
    let mut world = two_of_five();
    world.run(LONG);
    world.machine(4).disk_stands_still = true;
    let forced = world.force(4).unwrap();
    let first = world.node(4).poll_disk().unwrap();
    let ballot = Ballot { round: 1_000, proposer: owner(5) };
    let message = Message::Prepare { partition: P, epoch: Epoch(2), ballot };
    let now = world.now;
    world.node(4).handle_message(now, Envelope { from: owner(5), to: owner(4), message });
    let written = world.machine(4).disk.write(first);
    world.node(4).handle_written(now, written);
    assert_eq!(world.epoch(4), Epoch(1), "another record is about to replace it");
    world.machine(4).disk_stands_still = false;
    world.run(ms(20));
    assert_eq!((world.epoch(4), world.role(4)), (forced.epoch, Role::Primary));
    assert_eq!(world.machine(4).disk.acceptors[&P].claim, Some(forced));
}

#[test]
fn a_move_that_was_all_but_over_goes_on() {
    let mut world = World::serving(5);
    world.alive(&[3, 4, 5]);
    let end = world.status(3).last;
    let end = Position { seq: end.seq + 7, ..end };
    let claim = Claim { partition: P, epoch: Epoch(2), owners: [4, 5, 1].map(owner).into(), end };
    let message = Message::Accept { claim: Arc::new(claim), ballot: Ballot { round: 0, proposer: owner(1) } };
    let now = world.now;
    world.node(3).handle_message(now, Envelope { from: owner(1), to: owner(3), message });
    world.crash(1);
    world.crash(2);
    world.run(LONG);
    let forced = world.force(3).unwrap();
    assert_eq!((&forced.owners[..], forced.end), (&[4, 5, 1].map(owner)[..], end));
    world.run(ms(20));
    assert_eq!((world.epoch(3), world.epoch(4), world.epoch(5)), (forced.epoch, forced.epoch, forced.epoch));
}
