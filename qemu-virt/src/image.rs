//! Turns the linked payload into a flat arm64 Image.
