//! Being a member of the cluster: sockets, clock, and the only writer of the snapshot.
