//! Each rule of gossip, proven by two members (or as many as it takes) on virtual time.

mod cluster;
mod corpus;
mod harness;
mod hostile;
mod identity;
mod keys;
mod spread;
mod swim;
