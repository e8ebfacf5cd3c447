"""People in the loop: the labeling page, its storage, exports and results.

project    a folder of prompts and responses to label, its settings
candidates samples of policies as such a folder
questions  what a labeler is asked, and checks of the answers
events     the database: actions and labels, which are only ever appended
desk       who labels what: invitations, leases, drafts, labels
scores     agreement of labelers, and screening
security   sessions, request forgery, limits
web, admin the pages of labelers and of the project's owner
serving    runs the server
exports    labels as records for training and evaluation
measures   people's win rates, ratings and flags, for reports
"""

PORT = 8327  # of the page
