package storage

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// kernelSync lets the kernel sync a file and waits for its answer as one waits for a
// socket: IOCB_CMD_FDSYNC of io_submit(2), which is fdatasync(2) on a thread of the
// kernel's, answered through an eventfd. So no thread of the Go runtime, and none of
// its processors, is tied up meanwhile. The runtime finds out only after a while
// that a thread sits in a system call; until then a processor does nothing, and a node
// that shares few of them stands half or wholly still.
//
// It does one sync at a time.
type kernelSync struct {
	context uintptr // aio_context_t
	answers *os.File
	fd      uint32 // of answers
}

// kernelSyncs holds those that are free, nil for one that was not made yet: they
// live as long as the process. A node syncs its log, one file at a time; who finds none waits in
// file.SyncData.
var kernelSyncs = func() chan *kernelSync {
	free := make(chan *kernelSync, 4)
	for range cap(free) {
		free <- nil
	}
	return free
}()

// syncData is file.SyncData, by the kernel where file is a real one.
func syncData(file vfs.File) error {
	fd := file.Fd()
	if fd == vfs.InvalidFd {
		return file.SyncData()
	}
	select {
	case k := <-kernelSyncs:
		if k == nil {
			k, _ = newKernelSync()
		}
		begun, err := false, error(nil)
		if k != nil {
			begun, err = k.sync(fd)
		}
		kernelSyncs <- k
		if begun {
			return err
		}
	default:
	}
	return file.SyncData()
}

// newKernelSync fails where the kernel has no asynchronous I/O or allows no more of it.
func newKernelSync() (*kernelSync, error) {
	k := &kernelSync{}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&k.context)), 0); errno != 0 {
		return nil, errno
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, k.context, 0, 0)
		return nil, err
	}
	k.answers, k.fd = os.NewFile(uintptr(fd), "eventfd"), uint32(fd)
	return k, nil
}

// iocb is a control block, and ioEvent the answer to it (linux/aio_abi.h); what has
// no name here is zero, or says nothing of a sync.
type (
	iocb struct {
		_      uint64    // data
		_      [2]uint32 // key and flags of a write
		opcode uint16
		_      int16 // priority
		fd     uint32
		_      [4]uint64 // buffer, length, offset, reserved
		flags  uint32
		resfd  uint32
	}
	ioEvent struct {
		_   [2]uint64 // data, control block
		res int64
		_   int64
	}
)

const (
	iocbCmdFdsync = 3
	iocbFlagResfd = 1
)

// sync reports whether the sync was begun, and then what came of it.
func (k *kernelSync) sync(fd uintptr) (begun bool, err error) {
	blocks := [1]*iocb{{opcode: iocbCmdFdsync, fd: uint32(fd), flags: iocbFlagResfd, resfd: k.fd}}
	if n, _, errno := unix.RawSyscall(unix.SYS_IO_SUBMIT, k.context, 1, uintptr(unsafe.Pointer(&blocks))); errno != 0 || n != 1 {
		return false, nil
	}
	for {
		var count [8]byte
		if _, err := k.answers.Read(count[:]); err != nil {
			return true, fmt.Errorf("wait for the kernel's sync: %w", err)
		}
		var event [1]ioEvent
		n, _, errno := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, k.context, 0, 1, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&unix.Timespec{})), 0)
		switch {
		case errno != 0:
			return true, fmt.Errorf("ask for the kernel's sync: %w", errno)
		case n == 1 && event[0].res != 0:
			return true, unix.Errno(-event[0].res)
		case n == 1:
			return true, nil
		}
	}
}
