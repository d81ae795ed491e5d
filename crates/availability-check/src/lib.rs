//! The failover protocol, explored exhaustively within bounds: members, logs, crashes and late messages are a model, the
//! decisions are the functions of `cellar_model::availability`.
//!
//! All of it is in `tests`, so that no build of the programs has the model checker in it.
