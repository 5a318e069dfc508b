//! YAML in, validated configuration out, every problem located.
