//! Membership at scale: thousands of gossip members on virtual time, and every fault they must survive.
//!
//! The members are those of the binary (`ringway-gossip`); anything else that keeps a membership can be put in their
//! place ([`member::Protocol`]), so that figures are compared under one network and one set of faults. Read top-down:
//!
//! - [`targets`] are the figures that are promised, and which scenarios they are measured in;
//! - [`scenario`] is the table of scenarios, [`mixture`] draws one from the seed, and [`run`] plays one of them;
//! - [`world`] holds the processes and lets time go on, [`links`] is the network between them;
//! - [`member`] is what a world asks of a member, and our member behind it;
//! - [`checkers`] say what must never happen, [`meters`] how long things took; both see what members say, and know nothing
//!   of how a run was brought about. [`views`] is who holds whom for alive, and [`history`] the digest of a run.

pub mod checkers;
pub mod history;
pub mod links;
pub mod member;
pub mod meters;
pub mod mixture;
pub mod run;
pub mod scenario;
pub mod targets;
pub mod views;
pub mod world;
