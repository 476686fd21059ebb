package resp

import (
	"strings"
	"testing"
)

// step is a command as a person types it and its reply as it goes over the wire,
// with \n for CRLF. In it "..." stands for what does not matter.
type step struct{ send, want string }

func play(t *testing.T, s *session, steps []step) {
	t.Helper()
	for _, st := range steps {
		if got := s.line(st.send); !matches(got, st.want) {
			t.Errorf("%s\n got %q\nwant %q", st.send, got, st.want)
		}
	}
}

// matches reports whether got is want, in which "..." stands for what does not matter.
func matches(got, want string) bool {
	parts := strings.Split(want, "...")
	if len(parts) == 1 {
		return got == want
	}
	if !strings.HasPrefix(got, parts[0]) {
		return false
	}
	for _, p := range parts {
		i := strings.Index(got, p)
		if i < 0 {
			return false
		}
		got = got[i+len(p):]
	}
	return true
}

func TestCommands(t *testing.T) {
	const notInt, syntax = "-ERR value is not an integer or out of range", "-ERR syntax error"
	for name, steps := range map[string][]step{
		"get and set": {
			{"GET a", "$-1"}, {"SET a 1", "+OK"}, {"get a", "$1\n1"}, {`SET a ""`, "+OK"}, {"GET a", "$0\n"},
			{`SET bin "\x00\r\n\xff"`, "+OK"}, {"GET bin", "$4\n\x00\n\xff"}, {"STRLEN bin", ":4"}, {"STRLEN none", ":0"},
		},
		"SET with conditions": {
			{"SET a 1 XX", "$-1"}, {"SET a 1 NX", "+OK"}, {"SET a 2 nx", "$-1"}, {"SET a 3 xx", "+OK"}, {"GET a", "$1\n3"},
			{"SET a 4 GET", "$1\n3"}, {"SET b 1 GET", "$-1"}, {"SET a 5 NX GET", "$1\n4"}, {"SET a 5 XX GET", "$1\n4"}, {"GET a", "$1\n5"},
			{"SET c 1 NX GET", "$-1"}, {"GET c", "$1\n1"}, {"SET c 2 EX 9 GET", "$1\n1"}, {"TTL c", ":9"}, {"SET c 3 KEEPTTL GET", "$1\n2"}, {"TTL c", ":9"}, {"SET e 1 PXAT 1 GET", "$-1"}, {"SET c 1 PXAT 1 GET", "$1\n3"}, {"SET c 1 NX GET", "$-1"}, {"SETNX c 2", ":0"}, {"SETNX d 2", ":1"},
		},
		"SET with expiry": {
			{"SET a 1 EX 10", "+OK"}, {"TTL a", ":10"}, {"SET a 1 PX 1500", "+OK"}, {"TTL a", ":2"}, {"PTTL a", ":1500"},
			{"SET a 1 PX 1499", "+OK"}, {"TTL a", ":1"},
			{"SET a 1 EXAT 1700000100", "+OK"}, {"TTL a", ":100"}, {"EXPIRETIME a", ":1700000100"}, {"PEXPIRETIME a", ":1700000100000"},
			{"SET a 1 PXAT 1700000000500", "+OK"}, {"PTTL a", ":500"}, {"SET a 2 KEEPTTL", "+OK"}, {"PTTL a", ":500"}, {"SET a 3", "+OK"}, {"TTL a", ":-1"},
			{"SET a 4 PXAT 1", "+OK"}, {"EXISTS a", ":0"}, {"TTL a", ":-2"}, {"SETEX a 5 v", "+OK"}, {"TTL a", ":5"}, {"PSETEX a 50 v", "+OK"}, {"PTTL a", ":50"},
		},
		"SET refuses what makes no sense": {
			{"SET a 1 NX XX", syntax}, {"SET a 1 EX", syntax}, {"SET a 1 EX 1 PX 1", syntax}, {"SET a 1 EX 1 KEEPTTL", syntax},
			{"SET a 1 KEEPTTL EX 1", syntax}, {"SET a 1 WHAT", syntax}, {"SET a 1 EX x", notInt},
			{"SET a 1 EX 0", "-ERR invalid expire time in 'set' command"}, {"SET a 1 PX -1", "-ERR invalid expire time in 'set' command"},
			{"SET a 1 EX 9223372036854775807", "-ERR invalid expire time in 'set' command"},
			{"SETEX a 0 v", "-ERR invalid expire time in 'setex' command"}, {"PSETEX a -1 v", "-ERR invalid expire time in 'psetex' command"},
			{"SETEX a x v", notInt}, {`SET "" v`, "-ERR empty key"}, {`GET ""`, "-ERR empty key"}, {"EXISTS a", ":0"},
		},
		"numbers": {
			{"INCR n", ":1"}, {"INCRBY n 41", ":42"}, {"DECR n", ":41"}, {"DECRBY n 40", ":1"}, {"DECRBY n -1", ":2"}, {"GET n", "$1\n2"},
			{"INCRBY n 1.5", notInt}, {"INCRBY n 01", notInt}, {"INCRBY n +1", notInt}, {"SET s x", "+OK"}, {"INCR s", notInt},
			{"SET s 01", "+OK"}, {"INCR s", notInt}, {"SET s +1", "+OK"}, {"INCR s", notInt}, {"SET s -0", "+OK"}, {"DECR s", notInt}, {"SET s -1", "+OK"}, {"INCR s", ":0"}, {"SET s x", "+OK"},
			{"SET n 9223372036854775807", "+OK"}, {"INCR n", "-ERR increment or decrement would overflow"},
			{"SET n -9223372036854775808", "+OK"}, {"DECR n", "-ERR increment or decrement would overflow"},
			{"DECRBY n -9223372036854775808", "-ERR decrement would overflow"},
			{"SET f 10.5", "+OK"}, {"INCRBYFLOAT f 0.1", "$4\n10.6"}, {"INCRBYFLOAT f -5", "$3\n5.6"}, {"INCRBYFLOAT f x", "-ERR value is not a valid float"},
			{"INCRBYFLOAT f inf", "-ERR value is not a valid float"}, {"INCRBYFLOAT f nan", "-ERR value is not a valid float"}, {"INCRBYFLOAT s 1", "-ERR value is not a valid float"},
			{"INCRBYFLOAT f 1e-99999999", "$3\n5.6"}, {"SET tiny 1e-99999999", "+OK"}, {"INCRBYFLOAT tiny 1", "-ERR value is not a valid float"},
			{"SET big 1.7e308", "+OK"}, {"INCRBYFLOAT big 1.7e308", "-ERR increment would produce NaN or Infinity"},
		},
		"parts of values": {
			{"APPEND a Hello", ":5"}, {`APPEND a " World"`, ":11"}, {"GETRANGE a 0 4", "$5\nHello"}, {"GETRANGE a -5 -1", "$5\nWorld"}, {"SUBSTR a 0 0", "$1\nH"},
			{"GETRANGE a 5 3", "$0\n"}, {"GETRANGE a -1 -5", "$0\n"}, {"GETRANGE a 0 -100", "$1\nH"}, {"GETRANGE a -100 1", "$2\nHe"}, {"GETRANGE a 20 30", "$0\n"}, {"GETRANGE none 0 1", "$0\n"},
			{"GETRANGE a x 1", notInt}, {"SETRANGE a 6 Redis", ":11"}, {"GET a", "$11\nHello Redis"}, {"SETRANGE b 3 x", ":4"}, {"GET b", "$4\n\x00\x00\x00x"},
			{`SETRANGE none 5 ""`, ":0"}, {"EXISTS none", ":0"}, {`SETRANGE a 5 ""`, ":11"}, {"SETRANGE a -1 x", "-ERR offset is out of range"},
			{"SETRANGE a 99999999 x", "-TOOLARGE ..."}, {"SETRANGE a 9223372036854775807 x", "-TOOLARGE ..."},
		},
		"get and change": {
			{"GETSET a 1", "$-1"}, {"GETSET a 2", "$1\n1"}, {"GETDEL a", "$1\n2"}, {"GETDEL a", "$-1"}, {"SET a 1", "+OK"},
			{"GETEX a", "$1\n1"}, {"TTL a", ":-1"}, {"GETEX a EX 10", "$1\n1"}, {"TTL a", ":10"}, {"GETEX a PERSIST", "$1\n1"}, {"TTL a", ":-1"},
			{"GETEX a PXAT 1", "$1\n1"}, {"EXISTS a", ":0"}, {"GETEX a EX 10", "$-1"}, {"GETEX a", "$-1"},
			{"GETEX a EX 10 PERSIST", syntax}, {"GETEX a WHAT", syntax}, {"GETEX a EX 0", "-ERR invalid expire time in 'getex' command"},
		},
		"many keys": {
			{"MSET a 1 b 2 a 3", "+OK"}, {"MGET a b c", "*3\n$1\n3\n$1\n2\n$-1"}, {"MSETNX c 1 a 2", ":0"}, {"EXISTS c", ":0"}, {"MSETNX c 1 c 2 d 3", ":1"}, {"MGET c d", "*2\n$1\n2\n$1\n3"},
			{"EXISTS a a b none", ":3"}, {"TOUCH a none", ":1"}, {"DEL a none b a", ":2"}, {"DEL a", ":0"}, {"UNLINK c", ":1"},
			{"MSET a", "-ERR wrong number of arguments for 'mset' command"}, {"MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"}, {"MSETNX a 1 b", "-ERR wrong number of arguments for 'msetnx' command"},
			{"TYPE d", "+string"}, {"TYPE none", "+none"}, {`MGET d ""`, "-ERR empty key"},
		},
		"expiry": {
			{"EXPIRE a 10", ":0"}, {"SET a 1", "+OK"}, {"PERSIST a", ":0"}, {"EXPIRE a 10", ":1"}, {"TTL a", ":10"}, {"PERSIST a", ":1"}, {"TTL a", ":-1"}, {"PERSIST none", ":0"},
			{"EXPIRE a 10 XX", ":0"}, {"EXPIRE a 10 GT", ":0"}, {"EXPIRE a 20 NX", ":1"}, {"EXPIRE a 30 NX", ":0"}, {"EXPIRE a 10 GT", ":0"}, {"EXPIRE a 30 GT", ":1"}, {"EXPIRE a 40 LT", ":0"}, {"EXPIRE a 10 LT", ":1"}, {"EXPIRE a 15 XX", ":1"}, {"TTL a", ":15"},
			{"EXPIRE a 1 XX LT", ":1"}, {"PEXPIRE a 5000", ":1"}, {"PTTL a", ":5000"}, {"EXPIREAT a 1700000009", ":1"}, {"TTL a", ":9"}, {"PEXPIREAT a 1700000000100", ":1"}, {"PTTL a", ":100"},
			{"EXPIRE a 1 NX XX", "-ERR NX and XX, GT or LT options at the same time are not compatible"}, {"EXPIRE a 1 GT LT", "-ERR GT and LT options at the same time are not compatible"},
			{"EXPIRE a 1 ZZ", "-ERR Unsupported option ZZ"}, {"EXPIRE a x", notInt}, {"EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command"},
			{"EXPIRE a -1", ":1"}, {"EXISTS a", ":0"}, {"SET a 1", "+OK"}, {"EXPIRE a 0 LT", ":1"}, {"EXISTS a", ":0"}, {"EXPIREAT a 1", ":0"},
		},
		"walking": {
			{"RANDOMKEY", "$-1"}, {"MSET k1 1 k2 2 k3 3 other 4", "+OK"}, {"DBSIZE", ":4"}, {"KEYS k*", "*3\n$2\nk1\n$2\nk2\n$2\nk3"}, {"KEYS k[1-2]", "*2\n$2\nk1\n$2\nk2"}, {"KEYS z*", "*0"},
			{"SCAN 0", "*2\n$1\n0\n*4\n$2\nk1\n$2\nk2\n$2\nk3\n$5\nother"}, {"SCAN 0 MATCH o* COUNT 100", "*2\n$1\n0\n*1\n$5\nother"}, {"SCAN 0 TYPE string MATCH k1", "*2\n$1\n0\n*1\n$2\nk1"}, {"SCAN 0 TYPE hash", "*2\n$1\n0\n*0"},
			{"SCAN x", "-ERR invalid cursor"}, {"SCAN 12345", "-ERR invalid cursor: ..."}, {"SCAN 0 COUNT 0", syntax}, {"SCAN 0 COUNT x", notInt}, {"SCAN 0 MATCH", syntax}, {"SCAN 0 WHAT x", syntax},
			{"FLUSHDB NOW", syntax}, {"FLUSHDB ASYNC", "+OK"}, {"DBSIZE", ":0"}, {"FLUSHALL", "-ERR FLUSHALL is refused..."},
			{"WAIT 1 100", ":2"}, {"WAIT 3 10", ":2"}, {"WAIT x 1", notInt}, {"WAIT 1 -1", "-ERR timeout is negative"},
		},
		"connection": {
			{"PING", "+PONG"}, {"PING hi", "$2\nhi"}, {"PING a b", "-ERR wrong number of arguments for 'ping' command"}, {"ECHO hi", "$2\nhi"},
			{"AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"},
			{"AUTH default x", "+OK"}, {"AUTH bob x", "-WRONGPASS invalid username-password pair or user is disabled."},
			{"CLIENT GETNAME", "$-1"}, {"CLIENT SETNAME me", "+OK"}, {"CLIENT GETNAME", "$2\nme"}, {`CLIENT SETNAME "a b"`, "-ERR Client names cannot contain spaces..."},
			{"CLIENT SETINFO LIB-NAME x(y)", "+OK"}, {"client setinfo lib-ver 1", "+OK"}, {"CLIENT SETINFO WHAT 1", "-ERR Unrecognized option 'WHAT'"}, {"CLIENT ID", ":1"},
			{"CLIENT NO-EVICT ON", "+OK"}, {"CLIENT NO-TOUCH maybe", syntax}, {"CLIENT MAINT_NOTIFICATIONS on", "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP."}, {"CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command"},
			{"CLIENT INFO", "$..."}, {"CLIENT LIST", "$..."}, {"CLIENT LIST ID 99", "$0\n"}, {"CLIENT KILL ID 99", ":0"}, {"CLIENT KILL 1.2.3.4:5", "-ERR No such client"},
			{"HELLO 4", "-NOPROTO unsupported protocol version"}, {"HELLO x", "-ERR Protocol version is not an integer or out of range"}, {"HELLO 2 WHAT", "-ERR Syntax error in HELLO option 'WHAT'"}, {"HELLO 3 AUTH bob x", "-WRONGPASS ..."},
			{"HELLO", "*14\n$6\nserver\n$5\nredis\n$7\nversion\n$5\n7.4.0\n$5\nproto\n:2\n$2\nid\n:1\n$4\nmode\n$10\nstandalone\n$4\nrole\n$6\nmaster\n$7\nmodules\n*0"},
			{"READONLY", "+OK"}, {"READWRITE", "+OK"}, {"TIME", "*2\n$10\n1700000000\n$1\n0"}, {"RESET", "+RESET"}, {"CLIENT GETNAME", "$-1"},
		},
		"server": {
			{"CONFIG GET save", "*2\n$4\nsave\n$0\n"}, {"CONFIG GET append* databases", "*6\n..."}, {"CONFIG GET nothing", "*0"}, {"CONFIG SET save x", "-ERR CONFIG can only GET here..."}, {"CONFIG GET", "-ERR wrong number of arguments for 'config|get' command"},
			{"COMMAND COUNT", ":67"}, {"COMMAND INFO get nope", "*2\n*10\n$3\nget\n:2\n*2\n+readonly\n+fast\n:1\n:1\n:1\n*1\n+@string\n*0\n*0\n*0\n$-1"}, {"COMMAND GETKEYS MSET a 1 b 2", "*2\n$1\na\n$1\nb"}, {"COMMAND GETKEYS PING", "-ERR The command has no key arguments"}, {"COMMAND DOCS nope", "*0"}, {"COMMAND WHAT", "-ERR unknown subcommand..."},
			{"INFO persistence", "$26\n# Persistence\nloading:0\n"}, {"INFO", "$..."}, {"INFO nothing", "$0\n"},
			{"CLUSTER SLOTS", "-ERR This instance has cluster support disabled"}, {"DEBUG SLEEP 1", "-ERR DEBUG is refused..."},
		},
		"errors": {
			{"GET", "-ERR wrong number of arguments for 'get' command"}, {"GET a b", "-ERR wrong number of arguments for 'get' command"},
			{"FOO", "-ERR unknown command 'FOO', with args beginning with: "}, {`foo bar "a\r\nb"`, "-ERR unknown command 'foo', with args beginning with: 'bar' 'a  b' "},
			{"averyveryverylongcommandname", "-ERR unknown command 'averyveryverylongcommandname', with args beginning with: "}, {`""`, "-ERR unknown command '', with args beginning with: "},
			{"SELECT 9", "-ERR DB index is out of range: there are 0 (default) 1 (cp) 2 (ap) 3 (lf)"}, {"SELECT -1", "-ERR DB index is out of range..."}, {"SELECT 4294967296", "-ERR DB index is out of range..."}, {"SELECT x", notInt},
			{"KEYSPACE nope", "-ERR no such keyspace; there are 0 (default)..."}, {"KEYSPACE a b", "-ERR wrong number of arguments for 'keyspace' command"},
		},
		"keyspaces keep their keys apart": {
			{"SET a 0", "+OK"}, {"SELECT 1", "+OK"}, {"GET a", "$-1"}, {"SET a 1", "+OK"}, {"KEYSPACE", "$2\ncp"}, {"KEYSPACE default", "+OK"}, {"GET a", "$1\n0"}, {"KEYSPACE cp", "+OK"}, {"GET a", "$1\n1"},
		},
		"quorum mode takes blind writes only": {
			{"SELECT 2", "+OK"}, {"SET a 1", "+OK"}, {"SET a 2 EX 10", "+OK"}, {"GET a", "$1\n2"}, {"MSET a 1 b 2", "+OK"}, {"GETEX a", "$1\n1"}, {"DEL a none", ":1"}, {"DEL a", ":0"}, {"DEL b b", ":1"}, {"EXISTS b", ":0"}, {"SET a 1", "+OK"},
			{"INCR a", "-ERR mode quorum has no atomic read-modify-write (modes raft and leader-follower have)"}, {"SET a 2 NX", "-ERR mode quorum ..."}, {"SET a 2 XX", "-ERR mode quorum ..."}, {"SET a 2 KEEPTTL", "-ERR mode quorum ..."},
			{"SET a 2 GET", "-ERR mode quorum ..."}, {"GETSET a 2", "-ERR mode quorum ..."}, {"SET a 2 PXAT 1 GET", "-ERR mode quorum ..."}, {"SET a 2 KEEPTTL GET", "-ERR mode quorum ..."},
			{"GETDEL a", "-ERR mode quorum ..."}, {"GETEX a PERSIST", "-ERR mode quorum ..."}, {"GETEX a PXAT 1", "-ERR mode quorum ..."}, {"APPEND a x", "-ERR mode quorum ..."}, {"SETRANGE a 0 x", "-ERR mode quorum ..."}, {"INCRBYFLOAT a 1", "-ERR mode quorum ..."}, {"EXPIRE a 1", "-ERR mode quorum ..."}, {"EXPIRE a 1 NX", "-ERR mode quorum ..."}, {"EXPIRE a -1", "-ERR mode quorum ..."}, {"PERSIST a", "-ERR mode quorum ..."}, {"MSETNX x 1 y 2", "-ERR mode quorum ..."}, {"SETNX x 1", "-ERR mode quorum ..."},
			{"GET a", "$1\n1"}, {"TTL a", ":-1"}, {"EXISTS x y", ":0"},
		},
		"levels": {
			{"CONSISTENCY", "*8\n$8\nkeyspace\n$7\ndefault\n$4\nmode\n$4\nraft\n$4\nread\n$12\nlinearizable\n$5\nwrite\n$6\nquorum"},
			{"CONSISTENCY READ one", "+OK"}, {"CONSISTENCY", "*8\n$8\nkeyspace\n$7\ndefault\n$4\nmode\n$4\nraft\n$4\nread\n$3\none\n$5\nwrite\n$6\nquorum"},
			{"CONSISTENCY READ bounded:2s WRITE quorum", "+OK"}, {"CONSISTENCY READ each_quorum", "-LEVEL ..."}, {"CONSISTENCY READ one WRITE prefix", "-LEVEL ..."}, {"CONSISTENCY READ nonsense", "-LEVEL unknown level ..."}, {"CONSISTENCY READ", syntax}, {"CONSISTENCY BOTH one", syntax},
			{"CONSISTENCY", "*8\n$8\nkeyspace\n$7\ndefault\n$4\nmode\n$4\nraft\n$4\nread\n$10\nbounded:2s\n$5\nwrite\n$6\nquorum"},
			{"SELECT 2", "+OK"}, {"GET a", "-LEVEL ..."}, {"SELECT 0", "+OK"}, {"CONSISTENCY READ default WRITE default", "+OK"}, {"GET a", "$-1"},
		},
		"receipts": {
			{"RECEIPT", "-ERR no receipt..."}, {"SET a 1", "+OK"},
			{"RECEIPT", "*42\n$8\nkeyspace\n$7\ndefault\n$4\nmode\n$4\nraft\n$5\nshard\n:7\n$5\nepoch\n:3\n$5\nlevel\n$6\nquorum\n$5\ngiven\n$6\nquorum\n$4\nnode\n$2\nn1\n$6\nleader\n$2\nn2\n$4\nacks\n:2\n$6\nneeded\n:2\n$8\nreplicas\n:3\n$7\nversion\n$..."},
			{"GET a", "$1\n1"}, {"RECEIPT", "*42\n..."}, {"SELECT 2", "+OK"}, {"INCR a", "-ERR ..."}, {"RECEIPT", "-ERR no receipt..."},
		},
		"a command that failed has no receipt, and not that of the one before": {
			{"RECEIPT", "-ERR no receipt: no command has read or written keys here"},
			{"SET a x", "+OK"}, {"RECEIPT", "*42\n..."}, {"PING", "+PONG"}, {"RECEIPT", "*42\n..."}, {"CONSISTENCY READ nonsense", "-LEVEL ..."}, {"RECEIPT", "*42\n..."},
			{"INCR a", notInt}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: " + notInt[1:]}, {"PING", "+PONG"}, {"RECEIPT", "-ERR no receipt: the last..."},
			{"GET a", "$1\nx"}, {"RECEIPT", "*42\n..."}, {`GET ""`, "-ERR ..."}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: ERR ..."},
			{"GET a", "$1\nx"}, {"RECEIPT", "*42\n..."}, {"GET a b", "-ERR wrong..."}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: ERR wrong number..."},
			{"MGET a a", "*2\n$1\nx\n$1\nx"}, {"RECEIPT", "*42\n..."}, {"SETRANGE a -1 x", "-ERR ..."}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: ERR ..."},
			{"EXISTS a", ":1"}, {"RECEIPT", "*42\n..."}, {"MULTI", "+OK"}, {"GET a b", "-ERR wrong..."}, {"EXEC", "-EXECABORT ..."}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: EXECABORT ..."},
			{"SET a 1", "+OK"}, {"CONSISTENCY READ one", "+OK"}, {"SELECT 2", "+OK"}, {"CONSISTENCY READ one", "+OK"}, {"GET a", "$-1"}, {"RECEIPT", "*42\n..."},
			{"SELECT 0", "+OK"}, {"CONSISTENCY READ linearizable", "+OK"}, {"SELECT 2", "+OK"}, {"CONSISTENCY WRITE any", "+OK"}, {"SELECT 0", "+OK"}, {"CONSISTENCY READ prefix", "+OK"},
			{"SELECT 2", "+OK"}, {"GET a", "-LEVEL ..."}, {"RECEIPT", "-ERR no receipt: the last command on keys failed: LEVEL ..."},
		},
		"sessions": {
			{"SESSION", "$-1"}, {"GET a", "$-1"}, {"SESSION ON", "+OK"}, {"SESSION", "$0\n"}, {"GET a", "$-1"}, {"SESSION", "$1\n+"}, {"SET a 1", "+OK"}, {"SESSION", "$2\n++"},
			{"SESSION TOKEN abc", "+OK"}, {"SESSION", "$3\nabc"}, {"GET a", "$1\n1"}, {"SESSION", "$4\nabc+"},
			{"SESSION TOKEN bad", "-ERR session token: not one of ours"}, {"SESSION", "$4\nabc+"}, {"GET a", "$1\n1"}, {"SESSION", "$5\nabc++"}, {"SESSION OFF", "+OK"}, {"SESSION", "$-1"}, {"SESSION WHAT", syntax},
			{"SESSION TOKEN bad", "-ERR session token: not one of ours"}, {"SESSION", "$-1"},
		},
		"a connection that reads at level session is one": {
			{"SET a 1", "+OK"}, {"SESSION", "$-1"}, {"CONSISTENCY READ session", "+OK"}, {"SET a 2", "+OK"}, {"SESSION", "$1\n+"}, {"GET a", "$1\n2"}, {"SESSION", "$2\n++"},
			{"MGET a a", "*2\n$1\n2\n$1\n2"}, {"SESSION", "$3\n+++"}, {"CONSISTENCY READ one", "+OK"}, {"GET a", "$1\n2"}, {"SESSION", "$4\n++++"},
			{"SESSION OFF", "+OK"}, {"GET a", "$1\n2"}, {"SESSION", "$-1"}, {"CONSISTENCY READ session", "+OK"}, {"GET a", "$1\n2"}, {"SESSION", "$1\n+"},
			{"SESSION OFF", "+OK"}, {"SESSION", "$-1"}, {"GET a", "$1\n2"}, {"SESSION", "$1\n+"}, {"RESET", "+RESET"}, {"GET a", "$1\n2"}, {"SESSION", "$-1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, Options{Backend: newFake()})
			play(t, connect(t, addr), steps)
		})
	}
}

// The keyspace's own level counts as well, and the token is there from the first write on.
func TestAKeyspaceAtLevelSession(t *testing.T) {
	f := newFake()
	f.spaces[1].ReadLevel = "session"
	_, addr := serve(t, Options{Backend: f})
	play(t, connect(t, addr), []step{
		{"GET a", "$-1"}, {"SESSION", "$-1"}, {"SELECT 1", "+OK"}, {"SET a 1", "+OK"}, {"SESSION", "$1\n+"}, {"GET a", "$1\n1"}, {"SESSION", "$2\n++"},
	})
}

func TestRESP3(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	play(t, connect(t, addr), []step{
		{"HELLO 3 AUTH default x SETNAME me", "%7\n$6\nserver\n$5\nredis\n$7\nversion\n$5\n7.4.0\n$5\nproto\n:3\n$2\nid\n:1\n$4\nmode\n$10\nstandalone\n$4\nrole\n$6\nmaster\n$7\nmodules\n*0"},
		{"CLIENT GETNAME", "$2\nme"}, {"GET a", "_"}, {"SET a 1 XX", "_"}, {"SET a 1", "+OK"}, {"GET a", "$1\n1"}, {"MGET a b", "*2\n$1\n1\n_"},
		{"CONFIG GET save", "%1\n$4\nsave\n$0\n"}, {"CONSISTENCY", "%4\n$8\nkeyspace\n$7\ndefault\n..."}, {"RECEIPT", "%21\n$8\nkeyspace\n..."},
		{"INFO persistence", "=30\ntxt:# Persistence\nloading:0\n"}, {"COMMAND INFO get nope", "*2\n*10\n$3\nget\n:2\n~2\n+readonly\n+fast\n:1\n:1\n:1\n~1\n+@string\n*0\n*0\n*0\n_"},
		{"COMMAND DOCS get", "%1\n$3\nget\n%3\n..."}, {"INCRBYFLOAT f 1.5", "$3\n1.5"}, {"RANDOMKEY", "$1\n..."}, {"SESSION", "_"}, {"RESET", "+RESET"}, {"GET none", "$-1"},
	})
}
