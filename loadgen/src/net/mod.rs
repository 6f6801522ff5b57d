//! Where a server is reached, and the sockets to it.

pub(crate) mod address;
pub(crate) mod route;
pub(crate) mod stream;
