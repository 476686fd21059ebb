package consistency

// Token is a session token: opaque text that a client carries from reply to
// request so that its reads never go back behind what it wrote or read.
type Token string
