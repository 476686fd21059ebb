package client

// SetMaxBody changes the bound of an answer, and returns what changes it back.
func SetMaxBody(n int) (back func()) {
	was := maxBody
	maxBody = n
	return func() { maxBody = was }
}
