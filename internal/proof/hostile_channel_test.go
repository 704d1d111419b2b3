package proof

var channelRows = []manipulation{}
