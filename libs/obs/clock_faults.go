//go:build faults

package obs

import (
	"os"
	"strings"
	"time"
)

// Now is the machine's clock, off by the duration in the file that
// KMIP_CLOCK_OFFSET_FILE names, for example -36h: a clock that is wrong, or
// jumps when the file changes. A file that can't be read stands for no offset.
// Only builds for the fault suite have it.
func Now() time.Time {
	text, err := os.ReadFile(os.Getenv("KMIP_CLOCK_OFFSET_FILE")) //nolint:gosec // the suite's own file
	if err != nil {
		return time.Now()
	}
	offset, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		panic("KMIP_CLOCK_OFFSET_FILE: " + err.Error())
	}
	return time.Now().Add(offset)
}
