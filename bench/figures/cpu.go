package figures

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticks a second, in which the kernel counts processor time (USER_HZ, the same on all of
// Linux's common platforms).
const ticks = 100

// CPU is the processor time, user's and system's, that processes have used so far.
func CPU(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("a server has ended: %w", err)
		}
		d, err := cpuTime(string(b))
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// cpuTime reads utime and stime, fields 14 and 15 (proc(5)); the name before them may hold
// anything.
func cpuTime(stat string) (time.Duration, error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("not the stat of a process: %q", stat)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticks, errors.Join(err, err2)
}
