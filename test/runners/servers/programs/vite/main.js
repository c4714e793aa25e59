document.title = 'Hello'
