//! Members and records in, partition map out. Pure: no sockets, no clock.
