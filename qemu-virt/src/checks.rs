//! Size and symbol checks of the linked payload.
