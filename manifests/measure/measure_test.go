package measure

import (
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 29_600_000: "29.6 MB", 1_234_567_890: "1.2 GB", 5e15: "5000.0 TB",
		999_949: "999.9 kB", 999_950: "1.0 MB", 999_999_999: "1.0 GB", // no unit reaches its thousand
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %s, want %s", n, got, want)
		}
	}
}

func TestTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 4230 * time.Millisecond: "4.2s", 48 * time.Second: "48s", 187 * time.Second: "3m07s",
		119700 * time.Millisecond: "2m00s", 62 * time.Minute: "1h02m",
		9970 * time.Millisecond: "10s", 59600 * time.Millisecond: "1m00s", time.Hour - 400*time.Millisecond: "1h00m",
	} {
		if got := Time(d); got != want {
			t.Errorf("Time(%v) is %s, want %s", d, got, want)
		}
	}
}
