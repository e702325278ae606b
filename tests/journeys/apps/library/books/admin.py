from books.models import Author, Book
from django.contrib import admin


class BookInline(admin.TabularInline):
    model = Book
    extra = 1


@admin.register(Author)
class AuthorAdmin(admin.ModelAdmin):
    inlines = [BookInline]
    search_fields = ["name"]


@admin.register(Book)
class BookAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "price", "lent"]
    list_filter = ["lent", "author"]
    search_fields = ["title", "author__name"]
    autocomplete_fields = ["author"]
    actions = ["lend"]

    @admin.action(description="Lend")
    def lend(self, request, queryset):
        self.message_user(request, f"{queryset.update(lent=True)} lent")
