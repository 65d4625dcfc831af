package retry

import (
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// maxSeconds keeps what a server writes from overflowing a time.Duration.
const maxSeconds = 1 << 20

// usedUp is the time until the next window of a rate limit that is used up, `"api";r=0;t=55`:
// https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-09.html
var usedUp = regexp.MustCompile(`;\s*r=0\s*;\s*t=([0-9]{1,9})\b`)

// After is how long an answer asks to wait before the next request, and whether it asks at all. The
// headers are, the first one that is there:
//
//	RateLimit              a limit of requests that is used up, as the Hugging Face Hub sends it
//	Retry-After            seconds, or a date (RFC 9110, 10.2.3)
//	X-RateLimit-Remaining  0, with the time of X-RateLimit-Reset, as GitHub sends them
func After(h http.Header) (wait time.Duration, asked bool) {
	text := h.Get("Retry-After")
	if match := usedUp.FindStringSubmatch(h.Get("RateLimit")); match != nil {
		text = match[1]
	}
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, maxSeconds)) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return Until(h, at), true
	}
	if reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err == nil && h.Get("X-RateLimit-Remaining") == "0" {
		return Until(h, time.Unix(reset, 0)) + time.Second, true // the second of the reset is part of the old window
	}
	return 0, false
}

// Until is the time left until a moment that a server named. Its own clock counts, where the answer
// has it in Date.
func Until(h http.Header, at time.Time) time.Duration {
	now := time.Now()
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxSeconds*time.Second)
}

// IsBusy reports whether a status says that the same request may succeed later.
func IsBusy(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= http.StatusInternalServerError
}
