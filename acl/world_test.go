package acl

import "time"

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
